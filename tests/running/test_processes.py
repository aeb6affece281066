"""Several processes of one run: the curve of one process, messages once, exact resume after signals and kills."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests import forked

# Without stochastic depth, which is drawn per process. With 100 labels, some micro-batches have none.
SMALL = {
    "data.train": '"digits"',
    "data.labels": 100,
    "data.workers": 1,
    "student.drop_path": 0.0,
    "student.width": 24,
    "student.heads": 2,
    "student.depth": 2,
    "training.steps": 40,
    "training.batch_size": 36,
    "training.log_every": 10,
    "training.checkpoint_every": 10,
    "training.ema": 0.9,
    "training.device": '"cpu"',
    "mixing.mixup": 0.8,
    "trackers": '["metrics"]',
}


NPROC = ["--nproc", "2"]


def settings(**changes: Any) -> list[str]:
    given = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def command(out: Path, *arguments: str, processes: int = 2) -> list[str]:
    return ["-m", "distillkit_cli", "run", "--out", str(out), "--nproc", str(processes), *arguments]


def started(out: Path, *arguments: str, processes: int = 2) -> forked.Process:
    return forked.start(command(out, *arguments, processes=processes), stderr=STDOUT, start_new_session=True)


def finished(out: Path, *arguments: str, processes: int = 2) -> tuple[int, str]:
    process = started(out, *arguments, processes=processes)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def records(out: Path) -> list[dict[str, float]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "steps"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two processes."""
    out = tmp_path_factory.mktemp("pair") / "run"
    code, output = finished(out, *settings())
    assert code == 0, output
    assert output.count("40 steps of 36 images") == 1
    return out


def test_two_processes_have_the_curve_of_one(pair: Path, tmp_path: Path) -> None:
    code, output = finished(tmp_path / "run", *settings(), processes=1)
    assert code == 0, output
    alone, together = records(tmp_path / "run"), records(pair)
    assert [record["step"] for record in together] == [1, 10, 20, 30, 40]
    for one, two in zip(alone, together, strict=True):
        compared = {key for key in one if key.startswith(("loss", "grad_norm"))}
        assert {"loss", "loss/labels", "grad_norm"} <= compared
        assert {key: two[key] for key in compared} == pytest.approx({key: one[key] for key in compared}, rel=1e-5)
    first, second = (json.loads((out / "result.json").read_text())["figures"] for out in (tmp_path / "run", pair))
    assert first["validation/images"] == second["validation/images"]
    assert second == pytest.approx(first, abs=0.8)  # one validation image may be classified differently


def test_three_processes_in_micro_batches_have_the_curve_of_one(tmp_path: Path) -> None:
    """Two of the 24 images of a step are labelled, both in one process: the other two never have a label."""
    small = {"training__steps": 6, "training__batch_size": 24, "training__log_every": 1}
    given = settings(**small)
    code, output = finished(tmp_path / "one", *given, processes=1)
    assert code == 0, output
    code, output = finished(tmp_path / "three", *given, "--set", "training.micro_batch_size=4", processes=3)
    assert code == 0, output
    alone, together = records(tmp_path / "one"), records(tmp_path / "three")
    assert len(alone) == len(together) == 6
    for one, three in zip(alone, together, strict=True):
        compared = [key for key in one if key.startswith(("loss", "grad_norm"))]
        assert [three[key] for key in compared] == pytest.approx([one[key] for key in compared], rel=1e-5)


def kill_one(process: forked.Process, out: Path) -> None:
    """Kill the process of rank 1, which is started second, once there is a checkpoint."""
    while not list(out.glob("checkpoints/step-*/manifest.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    _, second = sorted(psutil.Process(process.pid).children(), key=psutil.Process.create_time)
    second.kill()


def test_after_a_process_is_killed_the_run_restarts_from_its_checkpoint_and_ends_bit_equal(
    pair: Path, tmp_path: Path
) -> None:
    process = started(tmp_path / "run", *settings(training__checkpoint_every=2))
    kill_one(process, tmp_path / "run")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert re.search(r"from step \d+", output)
    for name in ("student.safetensors", "ema/student.safetensors"):
        undisturbed, disturbed = load_file(pair / name), load_file(tmp_path / "run" / name)
        assert [key for key in undisturbed if not torch.equal(undisturbed[key], disturbed[key])] == []


def test_processes_save_on_sigterm_and_resume_bit_equal(pair: Path, tmp_path: Path) -> None:
    """The signal reaches the launcher and every process, as with Ctrl-C."""
    process = started(tmp_path / "run", *settings())
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not records(tmp_path / "run"):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    if "a checkpoint is saved" in output:
        assert process.returncode == 128 + signal.SIGTERM
        assert "Traceback" not in output
        again = forked.run(["-m", "distillkit_cli", "run", "--resume", tmp_path / "run", "--nproc", "2"])
        assert again.returncode == 0, again.stderr
    name = "student.safetensors"
    undisturbed, disturbed = load_file(pair / name), load_file(tmp_path / "run" / name)
    assert [key for key in undisturbed if not torch.equal(undisturbed[key], disturbed[key])] == []


def test_an_error_in_all_processes_is_printed_once(tmp_path: Path) -> None:
    code, output = finished(tmp_path / "run", *settings(training__batch_size=2))
    assert code == 2
    assert output == (
        "error: a step has 2 samples, too few for 2 processes, which need at least two each; use fewer processes or "
        "raise training.batch_size to 4 or more\n"
    )
    assert not (tmp_path / "run").exists()


LOSSES = "advit-kl, advit-l1, advit-l2, anchors, attndistill, ce, features, hard, similarity, soft"


@pytest.mark.parametrize(
    ("launcher", "fault", "sentence"),
    [
        ([], "sentence:1", "process 1 of 2: this process has no licence; buy one"),
        (
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
            "missing:1",
            f"process 1 of 2: unknown loss 'faulty'; known: {LOSSES}",
        ),
    ],
    ids=["while it builds, with --nproc", "before it joins, under torchrun"],
)
def test_a_process_that_fails_at_the_start_ends_all_with_its_error_once(
    tmp_path: Path, launcher: list[str], fault: str, sentence: str
) -> None:
    path = os.pathsep.join([str(Path(__file__).parent / "faulty_rank"), *(entry for entry in sys.path if entry)])
    arguments = ["run", *settings(), "--loss", "faulty", "--out", str(tmp_path / "run"), *([] if launcher else NPROC)]
    environment = os.environ | {"PYTHONPATH": path, "FAULT": fault}
    done = forked.run([*launcher, "-m", "distillkit_cli", *arguments], env=environment, timeout=120)
    assert [line for line in done.stderr.splitlines() if "error: " in line] == [f"error: {sentence}"]
    assert launcher or (done.returncode, done.stderr) == (2, f"error: {sentence}\n")
    assert not (tmp_path / "run").exists()


def test_two_processes_and_two_runs_fill_one_bank(teacher_run: str, tmp_path: Path) -> None:
    """Two runs of two processes at the same time fill a shelf; a third run finds every target in it."""
    teacher = ["--teacher", teacher_run, "--loss", "hard"]
    given = [*teacher, *settings(labels__weight=0.5, training__steps=8, training__checkpoint_every=8)]
    bank = ["--bank", str(tmp_path / "bank")]
    first, second = (started(tmp_path / name, *given, *bank) for name in ("first", "second"))
    for process in (first, second):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    code, output = finished(tmp_path / "live", *given)
    assert code == 0, output
    code, output = finished(tmp_path / "third", *given, *bank)
    assert code == 0, output
    use = json.loads((tmp_path / "third/result.json").read_text())["bank"]["hard"]
    assert use == {"read": 8 * 36, "computed": 0, "written": 0}
    for name in ("first", "second", "third"):
        live, banked = (
            load_file(tmp_path / "live/student.safetensors"),
            load_file(tmp_path / name / "student.safetensors"),
        )
        assert [key for key in live if not torch.equal(live[key], banked[key])] == []
