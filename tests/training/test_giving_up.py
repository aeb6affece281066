"""Runs with steps that are not finite: counting skipped steps, giving up, saving and replaying the step."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from distillkit.errors import CheckpointError, RunDirectoryError, TrainingError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import dump
from distillkit.recipe.schema import Recipe
from distillkit.running.checkpoint import checkpoint_at, newest_checkpoint
from distillkit.running.replay import replay
from distillkit.running.saved_step import read_saved_step
from distillkit.running.start import resume, run
from distillkit.storage.atomic import write_tensors
from tests import forked

STEPS = 12
ADVICE = "start a new run with a lower optimizer.lr, with training.clip, or with training.precision=bf16 or fp32"


def recipe_of(at: tuple[int, ...], *, training: Mapping[str, Any] | None = None, **options: Any) -> Recipe:
    """A recipe on digits with a faulty loss at these steps, and without noise that differs between processes."""
    return Recipe.model_validate(
        {
            "data": {"train": "digits", "workers": 0, "labels": 100},
            "student": {
                "model": "deit-ti",
                "image_size": 8,
                "patch": 4,
                "width": 12,
                "depth": 1,
                "heads": 2,
                "drop_path": 0.0,
            },
            "losses": [{"loss": "faulty", "at": list(at), "steps": STEPS, **options}],
            "training": {"steps": STEPS, "batch_size": 36, "log_every": 2, "device": "cpu", "precision": "fp32"}
            | dict(training or {}),
            "trackers": ["metrics"],
        }
    )


def lines(directory: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    found = [record for record in records if record["kind"] == kind]
    return [{key: value for key, value in record.items() if key != "time"} for record in found]


def training_error(recipe: Recipe, out: Path) -> str:
    with pytest.raises(TrainingError) as caught:
        run(recipe, out, installed_plugins())
    return str(caught.value)


def command(site: Path, *arguments: str) -> CompletedProcess[str]:
    """`distillkit` in a new process, in which the faulty loss is installed."""
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    return forked.run(["-m", "distillkit_cli", *arguments], env=os.environ | {"PYTHONPATH": path, "COLUMNS": "400"})


@pytest.mark.usefixtures("faulty")
def test_skipped_steps_are_counted_noted_and_left_out_of_averages(tmp_path: Path) -> None:
    """Steps 1, 5, 6 and 9. All of the interval 5-6 is skipped, so it is merged into 7-8."""
    run(recipe_of((1, 5, 6, 9)), tmp_path / "run", installed_plugins())
    records = lines(tmp_path / "run", "steps")
    assert [(record["step"], record.get("skipped_steps")) for record in records] == [
        (2.0, 1.0),
        (4.0, None),
        (8.0, 2.0),
        (10.0, 1.0),
        (12.0, None),
    ]
    assert all(math.isfinite(value) for record in records for key, value in record.items() if key != "kind")
    assert lines(tmp_path / "run", "note") == [
        {"kind": "note", "step": step, "note": f"step {step} was skipped: the loss is not finite (faulty/square)"}
        for step in (1, 5, 9)
    ]
    assert json.loads((tmp_path / "run/incidents.json").read_text())["skipped"] == [1, 5, 6, 9]
    assert json.loads((tmp_path / "run/result.json").read_text())["incidents"]["skipped_steps"] == 4


def test_a_step_that_is_not_finite_in_one_of_two_processes_is_skipped_in_both(faulty: Path, tmp_path: Path) -> None:
    """Only the second process has the fault; afterwards the curve is that of one process that skipped these steps."""
    (tmp_path / "pair.toml").write_text(dump(recipe_of((3, 4, 8), kinds=["nan", "inf", "root"], rank=1)))
    pair = command(
        faulty, "run", "--recipe", str(tmp_path / "pair.toml"), "--nproc", "2", "--out", str(tmp_path / "pair")
    )
    assert pair.returncode == 0, pair.stderr
    run(recipe_of((3, 4, 8), kinds=["nan", "inf", "root"]), tmp_path / "alone", installed_plugins())
    incidents = [json.loads((tmp_path / name / "incidents.json").read_text()) for name in ("pair", "alone")]
    assert incidents[0] == incidents[1] == {"broken": [], "skipped": [3, 4, 8]}
    assert lines(tmp_path / "pair", "note") == lines(tmp_path / "alone", "note")
    for two, one in zip(lines(tmp_path / "pair", "steps"), lines(tmp_path / "alone", "steps"), strict=True):
        compared = {key for key in one if key.startswith(("loss", "grad_norm", "skipped"))}
        assert {key: two[key] for key in compared} == pytest.approx({key: one[key] for key in compared}, rel=1e-5)


def test_two_processes_give_up_together_and_save_a_step_that_can_be_replayed(faulty: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = recipe_of((3, 4, 5, 6), of_class=3, training={"max_skipped": 4, "micro_batch_size": 10})
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    gave_up = (
        "error: 4 steps in a row were skipped, up to step 6: the loss is not finite (faulty/square); "
        f"{ADVICE}; to see why: distillkit replay {out}\n"
    )
    first = command(faulty, "-q", "run", "--recipe", str(tmp_path / "recipe.toml"), "--nproc", "2", "--out", str(out))
    assert (first.returncode, first.stderr) == (1, gave_up)
    (saved,) = (out / "incidents").iterdir()
    assert saved.name == "step-00000006"
    before = sorted((path, path.read_bytes()) for path in out.rglob("*") if path.is_file())
    shown = command(faulty, "replay", str(out))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert sorted((path, path.read_bytes()) for path in out.rglob("*") if path.is_file()) == before
    saved_batches = json.loads((saved / "state.json").read_text())["state"]["incident"]["micro_batches"]
    assert len(saved_batches) == 2
    found = replay(out, installed_plugins())
    assert found.reproduced
    for name, (then, now) in found.terms.items():
        assert now == pytest.approx(then, rel=1e-6, nan_ok=True), name
    assert {sample.term for sample in found.samples} == {"faulty/square"}
    keys = [key for parts in saved_batches for part in parts for key in part["keys"]]
    assert len(keys) == 36
    assert {sample.key for sample in found.samples} < set(keys)
    assert shown.stdout.splitlines()[:4] == [
        f"saved                     step 6, {saved}",
        "in the run                the loss is not finite (faulty/square)",
        "now                       not finite again: reproduced (fp32 on cpu)",
        shown.stdout.splitlines()[3],
    ]
    assert "first output              loss 'faulty' (Faulty); its input is from " in shown.stdout
    again = command(faulty, "-q", "run", "--resume", str(out), "--nproc", "2")
    assert (again.returncode, again.stderr) == (1, gave_up)


@pytest.mark.usefixtures("faulty")
def test_a_run_resumed_between_skipped_steps_keeps_the_count(tmp_path: Path) -> None:
    """Resumed from the last checkpoint, one step before the end, and from each one back to before the row."""
    every = {"max_skipped": 4, "checkpoint_every": 1, "keep": 9}
    message = training_error(recipe_of((2, 5, 6, 7, 8), training=every), tmp_path / "run")
    assert message == (
        "4 steps in a row were skipped, up to step 8: the loss is not finite (faulty/square); "
        f"{ADVICE}; to see why: distillkit replay {tmp_path / 'run'}"
    )
    incidents = (tmp_path / "run/incidents.json").read_text()
    assert json.loads(incidents)["skipped"] == [2, 5, 6, 7, 8]
    for start in (7, 6, 5, 4):
        assert newest_checkpoint(tmp_path / "run/checkpoints")[0].step == start
        with pytest.raises(TrainingError) as caught:
            resume(tmp_path / "run", installed_plugins())
        assert str(caught.value) == message
        assert (tmp_path / "run/incidents.json").read_text() == incidents
        for step in range(start, 8):
            shutil.rmtree(checkpoint_at(tmp_path / "run/checkpoints", step))


@pytest.mark.usefixtures("faulty")
def test_with_max_skipped_1_a_single_step_ends_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert training_error(recipe_of((2,), kinds=["root"], training={"max_skipped": 1}), out) == (
        f"skipped step 2: the loss is finite, but its gradient is not; {ADVICE}; to see why: distillkit replay {out}"
    )
    found = replay(out, installed_plugins())
    assert found.reproduced
    assert found.samples == ()
    assert found.output is None
    assert math.isnan(found.gradient_norm)
    assert "student.network.head.weight" in found.parameters
    as_text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(as_text)["gradient_norm"] == "nan"


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(("trained_in", "replayed_in"), [("fp16", "fp16"), ("fp16", "fp32"), ("fp32", "fp16")])
def test_a_step_can_be_replayed_in_another_precision(tmp_path: Path, trained_in: str, replayed_in: str) -> None:
    """The loss scale starts at 65,536 and is halved at step 2; the saved state has the first value."""
    training_error(
        recipe_of((2,), kinds=["inf"], training={"max_skipped": 1, "precision": trained_in}), tmp_path / "run"
    )
    if trained_in == "fp16":
        saved = read_saved_step(tmp_path / "run/incidents/step-00000002")
        assert saved.before.state["scaler"]["scale"] == 65_536
    found = replay(tmp_path / "run", installed_plugins(), precision=replayed_in)
    assert found.reproduced
    assert found.precision == replayed_in
    then, now = found.terms["labels"]
    assert now == pytest.approx(then, rel=1e-3)
    assert found.terms["faulty/square"] == (math.inf, math.inf)
    assert len(found.samples) == 36
    assert math.isfinite(found.gradient_norm)


def test_a_run_that_diverges_is_traced_to_the_first_module(tmp_path: Path) -> None:
    """Without a faulty loss: a learning rate of 1e30."""
    recipe = recipe_of((), training={"max_skipped": 3}).model_copy(update={"losses": ()})
    recipe = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"lr": 1e30})})
    out = tmp_path / "run"
    message = training_error(recipe, out)
    assert message.startswith("3 steps in a row were skipped, up to step ")
    found = replay(out, installed_plugins())
    assert found.reproduced
    assert found.output is not None
    assert found.output.module.startswith("student.network.")
    assert found.output.input_range is not None
    assert len(found.parameters) > 0


@pytest.mark.usefixtures("faulty")
def test_errors_of_replay_are_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(recipe_of((2,)), out, installed_plugins())
    with pytest.raises(RunDirectoryError) as none:
        replay(out, installed_plugins())
    assert str(none.value) == (
        f"{out} has no step to replay; one is saved when training.max_skipped steps in a row are skipped"
    )
    other = tmp_path / "other"
    training_error(recipe_of((2,), training={"max_skipped": 1}), other)
    with pytest.raises(RunDirectoryError) as unknown:
        replay(other, installed_plugins(), step=3)
    assert str(unknown.value) == f"{other} has no saved step 3; saved steps: 2"
    saved = other / "incidents/step-00000002"
    (saved / "rank-0000.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError) as truncated:
        replay(other, installed_plugins())
    assert str(truncated.value) == (
        f"checkpoint {saved} is damaged: rank-0000.safetensors does not match the size and SHA-256 in manifest.json"
    )
    (saved / "rank-0000.safetensors").unlink()
    with pytest.raises(CheckpointError) as missing:
        replay(other, installed_plugins())
    assert str(missing.value) == f"checkpoint {saved} is damaged: rank-0000.safetensors is missing"
    ordinary = other / "incidents/step-00000012"
    shutil.copytree(out / "checkpoints" / ordinary.name, ordinary)
    with pytest.raises(CheckpointError) as not_saved:
        replay(other, installed_plugins())
    assert str(not_saved.value) == (
        f"checkpoint {ordinary} cannot be replayed: its saved step is missing or invalid ('incident' is missing)"
    )


@pytest.mark.usefixtures("faulty")
def test_a_step_that_cannot_be_saved_ends_the_run_with_the_reason_for_the_skip(tmp_path: Path) -> None:
    class Blocks:
        """Creates a file where the folder of saved steps would be."""

        def distillkit_run_started(self, run: Any) -> None:
            (run.directory / "incidents").write_text("")

    with pytest.raises(TrainingError) as caught:
        run(recipe_of((2,), training={"max_skipped": 1}), tmp_path / "run", installed_plugins(), observers=[Blocks()])
    assert str(caught.value) == (
        f"skipped step 2: the loss is not finite (faulty/square); {ADVICE}; the step could not be saved "
        f"([Errno 17] File exists: '{tmp_path / 'run/incidents'}')"
    )


@pytest.mark.usefixtures("faulty")
def test_a_full_disk_leaves_no_partial_saved_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch fits on the disk, the state before it does not."""

    def full(path: Path, tensors: Mapping[str, Any]) -> None:
        write_tensors(path, tensors)
        if "incidents" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distillkit.running.checkpoint.write_tensors", full)
    message = training_error(recipe_of((2,), training={"max_skipped": 1}), tmp_path / "run")
    assert message.endswith(f"; {ADVICE}; the step could not be saved (the disk is full)")
    assert list((tmp_path / "run/incidents").iterdir()) == []
