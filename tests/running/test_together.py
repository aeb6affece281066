"""Several students in one pass: bit-equal to each alone, also after a kill, with a bank, and where one fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import distillkit
from distillkit.errors import RecipeError, RunDirectoryError, RunInterrupted, SkippedStepsError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import dump
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from tests import forked
from tests.faults.equality import differences

STEPS = 12
TRAINING = {"steps": STEPS, "micro_batch_size": 24, "checkpoint_every": 5, "log_every": 3}


@pytest.fixture
def recipes(recipe_of: Any, attentive_run: str) -> list[Recipe]:
    """Four unlike students: hard with a distillation token, attention with a projector, soft, and labels alone."""
    shared = {"teachers": [{"model": attentive_run}], "training": TRAINING, "augment": {"repeats": 3}}
    return [
        recipe_of(shared, {"losses": [{"loss": "hard"}], "training": {"ema": 0.9}}),
        recipe_of(
            shared,
            {"losses": [{"loss": "attndistill"}, {"loss": "soft"}], "labels": {"weight": 0.5}, "seed": 1},
            {"student": {"model": "vit-ti", "depth": 3}, "training": {"clip": 1.0, "log_every": 4}},
        ),
        without_options(
            recipe_of(shared, {"losses": [{"loss": "soft", "tau": 2.0}], "optimizer": {"name": "sgd", "lr": 0.1}}),
            {"model": "small-cnn", "width": 8, "image_size": 8},
        ),
        without_options(
            recipe_of({"training": TRAINING, "augment": {"repeats": 3}}),
            {"model": "small-cnn", "width": 12, "image_size": 8},
        ),
    ]


def without_options(recipe: Recipe, student: dict[str, Any]) -> Recipe:
    """The recipe with another student, without the options of its own."""
    return Recipe.model_validate(recipe.model_dump() | {"student": student})


def outs_of(recipes: Sequence[Recipe], folder: Path) -> list[Path]:
    return [folder / f"student-{number}" for number in range(len(recipes))]


def alone(recipes: Sequence[Recipe], folder: Path) -> list[Path]:
    outs = outs_of(recipes, folder / "alone")
    for recipe, out in zip(recipes, outs, strict=True):
        run(recipe, out, installed_plugins())
    return outs


def test_every_student_ends_bit_for_bit_as_it_would_alone(recipes: list[Recipe], tmp_path: Path) -> None:
    outs = outs_of(recipes, tmp_path / "together")
    results = distillkit.run_together(recipes, outs)
    for one, out, result in zip(alone(recipes, tmp_path), outs, results, strict=True):
        assert differences(one, out) == []
        assert isinstance(result, distillkit.RunResult)
        assert (result.directory, result.steps) == (out, STEPS)
        assert result.figures == json.loads((out / "result.json").read_text())["figures"]


def diverging(recipe: Recipe) -> Recipe:
    """The recipe with a learning rate at which the weights overflow."""
    return Recipe.model_validate(
        recipe.model_dump()
        | {
            "optimizer": {"name": "sgd", "lr": 1e30, "weight_decay": 0.0},
            "schedule": {"name": "constant"},
            "training": recipe.training.model_dump() | {"max_skipped": 3},
        }
    )


def test_a_student_that_diverges_leaves_with_its_own_message_and_the_others_continue(
    recipes: list[Recipe], tmp_path: Path
) -> None:
    chosen = [recipes[0], diverging(recipes[2]), recipes[2]]
    outs = outs_of(chosen, tmp_path / "together")
    first, failed, third = distillkit.run_together(chosen, outs)
    singles = outs_of(chosen, tmp_path / "alone")
    run(chosen[0], singles[0], installed_plugins())
    with pytest.raises(SkippedStepsError) as single:
        run(chosen[1], singles[1], installed_plugins())
    run(chosen[2], singles[2], installed_plugins())
    assert isinstance(failed, SkippedStepsError)
    assert str(failed) == str(single.value).replace(str(singles[1]), str(outs[1]))
    assert isinstance(first, distillkit.RunResult)
    assert isinstance(third, distillkit.RunResult)
    # The message has the path of the run, and the saved step the time at which it started.
    saved = {f"incidents/step-00000004/{name}" for name in ("manifest.json", "state.json")}
    for one, out in zip(singles, outs, strict=True):
        assert differences(one, out, apart_from={"metrics.jsonl", *saved} if one == singles[1] else ()) == []
    records = [record_of(out)[-1] for out in (singles[1], outs[1])]
    assert [record["error"] for record in records] == ["SkippedStepsError"] * 2
    assert records[1]["message"] == str(failed)


def record_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class SignalAt:
    """Sends this process a signal when a step is logged, once."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number, self.sent = step, number, False

    def distillkit_steps_logged(self, record: dict[str, float]) -> None:
        if record["step"] >= self.step and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)


def steps_in(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").iterdir())


def test_all_stop_after_the_same_step_and_resume_together_or_alone(recipes: list[Recipe], tmp_path: Path) -> None:
    """One continues alone and finishes; of the others one has lost its newest checkpoint, and is behind."""
    outs = outs_of(recipes[:3], tmp_path / "together")
    with pytest.raises(RunInterrupted) as stopped:
        distillkit.run_together(recipes[:3], outs, observers=[SignalAt(6)])
    assert str(stopped.value) == (
        f"stopped by SIGTERM after step 6 of {STEPS}; a checkpoint of each of the 3 runs is saved; to continue: the "
        f"same call with resume=True, or each alone: distillkit run --resume {outs[0]}"
    )
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert [steps_in(out) for out in outs] == [[5, 6]] * 3
    for out in outs:
        assert record_of(out)[-1]["message"] == (
            f"stopped by SIGTERM after step 6 of {STEPS}; a checkpoint is saved; to continue: distillkit run --resume "
            f"{out}"
        )
    distillkit.resume(outs[0])
    shutil.rmtree(outs[2] / "checkpoints/step-00000006")
    results = distillkit.run_together(recipes[:3], outs, resume=True)
    for one, out, result in zip(alone(recipes[:3], tmp_path), outs, results, strict=True):
        assert differences(one, out) == []
        assert isinstance(result, distillkit.RunResult)
        assert result.figures == json.loads((out / "result.json").read_text())["figures"]
    again = distillkit.run_together(recipes[:3], outs, resume=True)
    assert again == results


def test_an_interrupt_ends_all_runs(recipes: list[Recipe], tmp_path: Path) -> None:
    class Interrupting:
        def distillkit_steps_logged(self) -> None:
            raise KeyboardInterrupt

    outs = outs_of(recipes[2:], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        distillkit.run_together(recipes[2:], outs, observers=[Interrupting()])
    assert [record_of(out)[-1]["error"] for out in outs] == ["KeyboardInterrupt"] * 2


SCRIPT = """
import sys
import distillkit
recipes, outs = sys.argv[1].split(","), sys.argv[2].split(",")
for outcome in distillkit.run_together(recipes, outs, resume=True):
    sys.stdout.write(type(outcome).__name__ + "\\n")  # in one piece, as two processes write to one pipe
"""


def written(recipes: Sequence[Recipe], folder: Path) -> str:
    """The recipes as files, separated by commas."""
    paths = [folder / f"{number}.toml" for number in range(len(recipes))]
    for path, recipe in zip(paths, recipes, strict=True):
        path.write_text(dump(recipe))
    return ",".join(map(str, paths))


def test_runs_killed_at_random_end_bit_equal_when_resumed_together(recipes: list[Recipe], tmp_path: Path) -> None:
    chosen, outs = recipes[1:3], outs_of(recipes[1:3], tmp_path / "together")
    arguments = ["-c", SCRIPT, written(chosen, tmp_path), ",".join(map(str, outs))]
    draw = random.Random(18)
    for _ in range(3):
        process, files = forked.start(arguments), draw.randint(1, 40)
        # Not with Path.rglob, which fails if a temporary folder disappears meanwhile.
        while process.poll() is None and sum(len(found) for *_, found in os.walk(tmp_path / "together")) < files:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    done = forked.run(arguments)
    assert (done.returncode, done.stdout) == (0, "RunResult\n" * 2), done.stderr
    for one, out in zip(alone(chosen, tmp_path), outs, strict=True):
        assert differences(one, out) == []


def test_two_processes_train_all_and_one_that_diverges_leaves(recipes: list[Recipe], tmp_path: Path) -> None:
    chosen = [recipes[0], diverging(recipes[2]), recipes[2]]
    outs = outs_of(chosen, tmp_path / "together")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = forked.run([*launcher, script, written(chosen, tmp_path), ",".join(map(str, outs))])
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["RunResult"] * 4 + ["SkippedStepsError"] * 2
    (tmp_path / "recipes").mkdir()
    for number in (0, 2):
        single = tmp_path / "alone" / str(number)
        path = written([chosen[number]], tmp_path / "recipes")
        done = forked.run(["-m", "distillkit_cli", "run", "--recipe", path, "--nproc", "2", "--out", single])
        assert done.returncode == 0, done.stderr
        assert differences(single, outs[number]) == []


@pytest.mark.parametrize("filled", [False, True], ids=["an empty bank", "a filled bank"])
def test_with_a_bank_every_student_reads_and_fills_as_alone(
    recipes: list[Recipe], tmp_path: Path, filled: bool
) -> None:
    bank = tmp_path / "bank"
    views = {"views": 1, **recipes[0].data.model_dump(exclude_unset=True)}
    changes = {"bank": str(bank), "data": recipes[0].data.model_validate(views), "trackers": ("metrics",)}
    chosen = [recipe.model_copy(update=changes) for recipe in recipes[:2]]
    if filled:
        for number, recipe in enumerate(chosen):
            run(recipe, tmp_path / f"filling-{number}", installed_plugins())
        shutil.copytree(bank, tmp_path / "full")
    folders = [tmp_path / "alone", tmp_path / "together"]
    for recipe, out in zip(chosen, outs_of(chosen, folders[0]), strict=True):
        run(recipe, out, installed_plugins())
        shutil.rmtree(bank)
        if filled:
            shutil.copytree(tmp_path / "full", bank)
    distillkit.run_together(chosen, outs_of(chosen, folders[1]))
    for one, out in zip(*(outs_of(chosen, folder) for folder in folders), strict=True):
        assert differences(one, out) == []
        for counted in json.loads((out / "result.json").read_text())["bank"].values():
            assert (counted["computed"] == 0) == filled


REMEDY = (
    "give both the same values, or run them one by one: with a bank, runs on the same images compute their targets once"
)


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({"augment": {"flip": 0.0}}, "augment.flip (0.5 and 0.0)"),
        ({"data": {"seed": 3, "validation": 0.2}}, "data.seed (0 and 3), data.validation (0.1 and 0.2)"),
        ({"labels": {"smoothing": 0.2}}, "labels.smoothing (0.1 and 0.2)"),
        ({"training": {"steps": 9}}, f"optimiser steps ({STEPS} and 9)"),
        (
            {"training": {"batch_size": 32, "micro_batch_size": None}, "mixing": {"mixup": 0.0, "cutmix": 0.5}},
            "mixing.cutmix (1.0 and 0.5), mixing.mixup (0.8 and 0.0), training.batch_size (64 and 32), 1 more",
        ),
        ({"student": {"image_size": 12}}, "student.image_size ([8, 8] and [12, 12])"),
    ],
)
def test_runs_on_different_images_or_of_different_length_are_refused(
    recipes: list[Recipe], recipe_of: Any, tmp_path: Path, changes: dict[str, Any], different: str
) -> None:
    second = recipe_of({"training": TRAINING, "augment": {"repeats": 3}}, changes)
    with pytest.raises(RecipeError) as refused:
        distillkit.run_together([recipes[0], second], [tmp_path / "a", tmp_path / "b"])
    assert str(refused.value) == (
        f"{tmp_path / 'a'} and {tmp_path / 'b'} cannot train in one pass, because they differ in {different}; {REMEDY}"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_of_another_size_is_named(recipes: list[Recipe], tmp_path: Path) -> None:
    (teacher,) = recipes[0].teachers
    other = recipes[0].model_copy(update={"teachers": (teacher.model_copy(update={"size": 8}),)})
    with pytest.raises(RecipeError) as refused:
        distillkit.run_together([recipes[0], other], [tmp_path / "a", tmp_path / "b"])
    assert f"differ in teachers.{teacher.name}.size (auto and 8); give both" in str(refused.value)


def test_run_directories_are_checked_first(recipes: list[Recipe], tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError) as counted:
        distillkit.run_together(recipes, [tmp_path / "a"])
    assert str(counted.value) == "there are 4 recipes and 1 run directories; give one directory per recipe"
    with pytest.raises(RunDirectoryError) as twice:
        distillkit.run_together(recipes[:2], [tmp_path / "a", tmp_path / "b/../a"])
    assert str(twice.value) == f"{tmp_path / 'a'} is the run directory of two recipes; give each its own"
    (tmp_path / "a/file").parent.mkdir()
    (tmp_path / "a/file").touch()
    with pytest.raises(RunDirectoryError) as taken:
        distillkit.run_together(recipes[:2], [tmp_path / "b", tmp_path / "a"])
    assert str(taken.value) == f"{tmp_path / 'a'} exists and is not empty; delete it or give another --out"
    run(recipes[3].model_copy(update={"seed": 5}), tmp_path / "c", installed_plugins())
    with pytest.raises(RunDirectoryError) as another:
        distillkit.run_together(recipes[3:], [tmp_path / "c"], resume=True)
    assert str(another.value) == (
        f"{tmp_path / 'c'} was started with another recipe (different: seed); give the same options, or another --out"
    )
    assert not (tmp_path / "b").exists()
