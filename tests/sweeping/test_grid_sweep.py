"""A sweep over a grid: arms are ordinary runs, and a sweep that is stopped or killed continues."""

import json
import shlex
import shutil
import signal
import time

import pytest

from distillkit.storage.lock import acquire
from tests import forked

GRID = ("--grid", "optimizer.lr=1e-3,1e-2", "--grid", "seed=0,1")
NAMES = [f"optimizer.lr={lr}_seed={seed}" for lr in ("1e-3", "1e-2") for seed in (0, 1)]


def weights(folder, arms=NAMES):
    return {arm: (folder / arm / "student.safetensors").read_bytes() for arm in arms}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing stopped, its result and its notes."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def done(whole, finish):
    """The folder of the finished sweep, its result and its notes; run once per module."""
    if not (whole / "sweep").is_dir():
        finish_once[:] = [finish(*GRID, "--out", whole / "sweep", "--jobs", "2")]
    return (whole / "sweep", *finish_once[0])


finish_once = []


def test_every_arm_has_a_run_directory(done):
    out, result, code, err = done
    assert code == 0, err
    assert [arm["name"] for arm in result["arms"]] == NAMES
    assert [arm["state"] for arm in result["arms"]] == ["done"] * 4
    pages = [f"comparison.{kind}" for kind in ("html", "json", "md")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES, *pages, ".lock", "logs", "sweep.json"])
    assert err.splitlines()[-1] == f"written to {out}: comparison.json, comparison.md, comparison.html"
    assert all("test/top1" in arm["figures"] for arm in result["arms"])
    # The comparison takes the seeds of an arm together.
    compared = json.loads((out / "comparison.json").read_text())
    assert [len(arm["runs"]) for arm in compared["arms"]] == [2, 2]
    assert len(set(weights(out).values())) == 4


def test_an_arm_is_the_run_of_its_own_command(done, tmp_path):
    """The command that --list prints, with another directory, gives the same weights without the sweep."""
    out, result, _, _ = done
    _, *words = shlex.split(result["arms"][3]["command"])
    words[words.index("--out") + 1] = str(tmp_path / "alone")
    alone = forked.run(["-m", "distillkit_cli", *words], cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "alone/student.safetensors").read_bytes() == weights(out)[NAMES[3]]


def test_a_finished_sweep_repeats_nothing(done, finish):
    out, result, _, _ = done
    times = {path: path.stat().st_mtime_ns for arm in NAMES for path in (out / arm).rglob("*")}
    again, code, err = finish(*GRID, "--out", out)
    assert (code, again) == (0, result), err
    assert {path: path.stat().st_mtime_ns for arm in NAMES for path in (out / arm).rglob("*")} == times


def test_arms_that_their_own_commands_trained_become_a_sweep(done, finish, tmp_path):
    """As after `--list` on other machines: there is no sweep.json."""
    out, result, _, _ = done
    for name in NAMES[:2]:
        shutil.copytree(out / name, tmp_path / "listed" / name)
    again, code, err = finish(*GRID, "--out", tmp_path / "listed")
    assert code == 0, err
    assert [(arm["name"], arm["figures"]) for arm in again["arms"]] == [
        (arm["name"], arm["figures"]) for arm in result["arms"]
    ]
    assert (tmp_path / "listed" / "sweep.json").is_file()


def test_a_grid_that_grows_keeps_its_arms(done, finish, tmp_path):
    out, *_ = done
    again, code, err = finish("--grid", "optimizer.lr=1e-3,1e-2", "--grid", "seed=0,1,2", "--out", out, "--dry-run")
    assert code == 0, err
    states = {arm["name"]: arm["state"] for arm in again["arms"]}
    assert states == dict.fromkeys(NAMES, "done") | {f"optimizer.lr={lr}_seed=2": "new" for lr in ("1e-3", "1e-2")}


def test_killed_at_any_moment_a_sweep_continues(done, kill, finish, tmp_path):
    """Four times SIGKILL, at moments between the start of the first arm and the end of the last."""
    out, result, _, _ = done
    kill(*GRID, "--out", tmp_path / "killed", seconds=4)
    again, code, err = finish(*GRID, "--out", tmp_path / "killed")
    assert code == 0, err
    assert [(arm["name"], arm["figures"]) for arm in again["arms"]] == [
        (arm["name"], arm["figures"]) for arm in result["arms"]
    ]
    assert weights(tmp_path / "killed") == weights(out)


def test_ctrl_c_stops_the_arms_with_their_checkpoints(sweep, tmp_path):
    options = ("--set", "training.checkpoint_every=1", "--set", "training.epochs=1000")
    process = sweep(*options, "--grid", "seed=0,1", "--out", "stopped", "--jobs", "2")
    folders = [tmp_path / "stopped" / f"seed={seed}" for seed in (0, 1)]
    wait_for(lambda: all(any((folder / "checkpoints").glob("*")) for folder in folders), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.wait() == 130
    assert err.splitlines()[-1].startswith("stopped by SIGINT; 0 of 2 arms done; to continue: distillkit sweep ")
    assert all("stopped by SIGTERM after step" in log(tmp_path / "stopped", f"seed={seed}") for seed in (0, 1))
    assert not any((folder / "result.json").exists() for folder in folders)


def test_an_arm_that_fails_does_not_stop_the_others(finish, tmp_path):
    result, code, err = finish(
        "--set", "training.max_skipped=2", "--grid", "optimizer.lr=1e30,1e-3", "--out", "failing"
    )
    assert code == 1
    failed, done = result["arms"]
    assert (failed["state"], done["state"]) == ("failed", "done")
    assert failed["why"] == (
        "2 steps in a row were skipped, up to step 4: the loss is not finite (labels); start a new run with a lower "
        "optimizer.lr, with training.clip, or with training.precision=bf16 or fp32; to see why: distillkit replay "
        "failing/optimizer.lr=1e30"
    )
    notes = [line for line in err.splitlines() if "ended" not in line]
    assert notes == [
        f"arm optimizer.lr=1e30 failed: {failed['why']}; see failing/logs/optimizer.lr=1e30.log",
        "written to failing: comparison.json, comparison.md, comparison.html",
        "1 of 2 arms failed",
    ]
    (left_out,) = json.loads((tmp_path / "failing/comparison.json").read_text())["left_out"]
    assert left_out == {"run": "failing/optimizer.lr=1e30", "reason": f"failed: {failed['why']}"}
    # A later call still knows.
    options = ("--set", "training.max_skipped=2", "--grid", "optimizer.lr=1e30,1e-3")
    planned, _, _ = finish(*options, "--out", "failing", "--dry-run")
    assert [(arm["state"], arm["why"]) for arm in planned["arms"]] == [("failed", failed["why"]), ("done", "")]


def test_a_sweep_waits_for_a_process_that_still_trains_an_arm(sweep, tmp_path):
    (tmp_path / "busy/seed=0").mkdir(parents=True)
    (tmp_path / "busy/sweep.json").write_text('{"kind": "grid", "arms": {}}')
    with acquire(tmp_path / "busy/seed=0/.lock"):
        process = sweep("--grid", "seed=0", "--out", "busy")
        wait_for((tmp_path / "busy/.lock").exists, process)
        time.sleep(1)
        assert process.poll() is None
        assert not (tmp_path / "busy/seed=0/recipe.toml").exists()
    _, err = process.communicate(timeout=120)
    assert process.wait() == 0, err
    assert "is still training in busy/seed=0; the sweep waits for it" in err


def test_a_second_sweep_of_the_same_folder_is_refused(finish, tmp_path):
    (tmp_path / "twice").mkdir()
    with acquire(tmp_path / "twice/.lock") as _:
        _, code, err = finish("--grid", "seed=0", "--out", "twice")
    assert code == 2
    assert err.splitlines()[-1].endswith("already sweeps in twice; wait until it ends, or give another --out")


def wait_for(holds, process):
    while not holds():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def log(out, arm):
    return (out / "logs" / f"{arm}.log").read_text()


def test_one_pass_gives_every_arm_the_weights_of_a_run_alone(done, finish, tmp_path):
    out, result, _, _ = done
    together, code, err = finish(*GRID, "--out", "together", "--one-pass")
    assert code == 0, err
    assert [arm["figures"] for arm in together["arms"]] == [arm["figures"] for arm in result["arms"]]
    assert weights(tmp_path / "together") == weights(out)


def test_one_pass_that_was_killed_continues(done, sweep, finish, tmp_path):
    out, *_ = done
    process = sweep(*GRID, "--out", "together", "--one-pass")
    folders = [tmp_path / "together" / arm for arm in NAMES]
    wait_for(lambda: all(any((folder / "checkpoints").glob("*")) for folder in folders), process)
    process.kill()
    process.wait()
    _, code, err = finish(*GRID, "--out", "together", "--one-pass")
    assert code == 0, err
    assert weights(tmp_path / "together") == weights(out)


def test_ctrl_c_stops_one_pass_with_all_checkpoints(sweep, tmp_path):
    options = ("--set", "training.checkpoint_every=1", "--set", "training.epochs=1000")
    process = sweep(*options, "--grid", "seed=0,1", "--out", "stopped", "--one-pass")
    folders = [tmp_path / "stopped" / f"seed={seed}" for seed in (0, 1)]
    wait_for(lambda: all(any((folder / "checkpoints").glob("*")) for folder in folders), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.wait() == 143
    assert err.splitlines()[-1].startswith("stopped; 0 of 2 arms done; to continue: distillkit sweep ")


def test_an_arm_that_fails_leaves_the_pass(finish):
    result, code, err = finish(
        "--set", "training.max_skipped=2", "--grid", "optimizer.lr=1e30,1e-3", "--out", "failing", "--one-pass"
    )
    assert code == 1, err
    failed, done = result["arms"]
    assert (failed["state"], done["state"]) == ("failed", "done")
    assert failed["why"].startswith("2 steps in a row were skipped, up to step 4: the loss is not finite (labels); ")
