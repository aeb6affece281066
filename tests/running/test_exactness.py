"""Exactness: the same recipe gives the same weights, for any number of workers and after a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._functorch import config as aot_config

from distillkit.errors import RecipeError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe, StudentEntry
from distillkit.running.session import build_session
from distillkit.running.start import plan, resume, run
from tests.faults.equality import differences

EMA = {"training": {"ema": 0.9}}
HARD = {"losses": [{"loss": "hard"}]}


class StopAt:
    """A KeyboardInterrupt when a step is logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    def distillkit_steps_logged(self, record: Mapping[str, float]) -> None:
        if record["step"] >= self.step:
            raise KeyboardInterrupt


def assert_equal_weights(left: Path, right: Path) -> None:
    """Assert that two student files are bit-equal."""
    first, second = load_file(left), load_file(right)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


def test_the_number_of_workers_changes_nothing(recipe_of: Any, teacher_run: str, tmp_path: Path) -> None:
    """0, 1 and 3 workers, with stochastic depth, erasing, mixup and cutmix."""
    teachers = {"teachers": [{"model": teacher_run}]}
    for workers in (0, 1, 3):
        recipe = recipe_of(HARD, teachers, {"data": {"workers": workers}}, {"training": {"steps": 22}})
        run(recipe, tmp_path / str(workers), installed_plugins())
    assert_equal_weights(tmp_path / "0/student.safetensors", tmp_path / "1/student.safetensors")
    assert_equal_weights(tmp_path / "0/student.safetensors", tmp_path / "3/student.safetensors")


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 24}], ids=["one batch", "accumulated"])
def test_a_run_stopped_inside_an_epoch_ends_with_the_same_weights(
    recipe_of: Any, teacher_run: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Stopped at step 10 of 18 in the first epoch, after the checkpoint of step 7; with EMA and repeats."""
    teachers = {"teachers": [{"model": teacher_run}]}
    rest = {"training": {"checkpoint_every": 7, **changes}, "augment": {"repeats": 3}}
    recipe = recipe_of(HARD, teachers, EMA, rest)
    run(recipe, tmp_path / "uninterrupted", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(10)])
    steps = sorted(path.name for path in (tmp_path / "stopped/checkpoints").iterdir())
    assert steps == ["step-00000007"]
    result = resume(tmp_path / "stopped", installed_plugins())
    assert_equal_weights(tmp_path / "uninterrupted/student.safetensors", tmp_path / "stopped/student.safetensors")
    assert_equal_weights(
        tmp_path / "uninterrupted/ema/student.safetensors", tmp_path / "stopped/ema/student.safetensors"
    )
    assert result.steps == 24


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stopped_run_ends_bit_equal_in_every_file(
    recipe_of: Any, attentive_run: str, tmp_path: Path, precision: str
) -> None:
    """Mixup, cutmix, erasing, repeats, stochastic depth, accumulation, clipping, EMA and a projector, all at once.

    Stopped inside an epoch and a log interval, and between two checkpoints. In fp16 the scaler counts steps.
    """
    recipe = recipe_of(
        {"teachers": [{"model": attentive_run}], "losses": [{"loss": "hard"}, {"loss": "attndistill"}]},
        {"labels": {"weight": 0.5}, "augment": {"repeats": 3}, "trackers": ["metrics"]},
        {"training": {"checkpoint_every": 3, "micro_batch_size": 24, "clip": 1.0, "ema": 0.9, "precision": precision}},
    )
    run(recipe, tmp_path / "uninterrupted", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(10)])
    resume(tmp_path / "stopped", installed_plugins())
    assert differences(tmp_path / "uninterrupted", tmp_path / "stopped") == []
    state = json.loads((tmp_path / "uninterrupted/checkpoints/step-00000024/state.json").read_text())["state"]
    assert state["scaler"] == {} if precision == "fp32" else state["scaler"]["_growth_tracker"] == 24


def of_resnet(recipe: Recipe, size: int) -> Recipe:
    """The recipe with a ResNet as student; at 32 px its last maps, before their BatchNorm, have a single pixel."""
    return recipe.model_copy(update={"student": StudentEntry(model="timm:resnet10t", image_size=size)})


@pytest.mark.parametrize(
    ("size", "batch", "micro", "expected"),
    [(32, 9, 8, [4, 5]), (32, 15, 14, [8, 7]), (32, 10, 8, [8, 2]), (64, 9, 8, [8, 1])],
    ids=["9 by 8", "15 by 14", "10 by 8", "works on one image"],
)
def test_micro_batches_of_a_student_that_cannot_train_on_one_image(
    recipe_of: Any, size: int, batch: int, micro: int, expected: list[int]
) -> None:
    """With mixup and cutmix, so the split is between pairs; all other students keep the split they had."""
    training = {"training": {"batch_size": batch, "micro_batch_size": micro}}
    session = build_session(plan(of_resnet(recipe_of(training), size), installed_plugins()))
    (window,) = session.data.windows(0, 1)
    assert [len(part.images) for part in window.micro_batches] == expected
    session.stepper.step(window)


def test_a_teacher_with_random_weights_is_the_same_after_a_resume(recipe_of: Any, tmp_path: Path) -> None:
    """Whatever was drawn before in the process that resumes."""
    teachers = {"teachers": [{"model": "cifar-resnet20", "weights": "none"}]}
    recipe = recipe_of({"losses": [{"loss": "features"}]}, teachers, {"training": {"steps": 8, "checkpoint_every": 3}})
    notes = plan(recipe, installed_plugins()).notes
    assert "teacher 'cifar-resnet20' has random weights, the same in every run" in notes
    torch.manual_seed(1)
    run(recipe, tmp_path / "whole", installed_plugins())
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(5)])
    torch.manual_seed(3)
    resume(tmp_path / "stopped", installed_plugins())
    assert_equal_weights(tmp_path / "whole/student.safetensors", tmp_path / "stopped/student.safetensors")


def test_a_run_with_evenly_split_micro_batches_resumes_exactly(recipe_of: Any, tmp_path: Path) -> None:
    training = {"batch_size": 9, "micro_batch_size": 8, "steps": 4, "checkpoint_every": 2, "log_every": 1}
    recipe = of_resnet(recipe_of({"training": training}), 32)
    run(recipe, tmp_path / "uninterrupted", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(3)])
    resume(tmp_path / "stopped", installed_plugins())
    assert_equal_weights(tmp_path / "uninterrupted/student.safetensors", tmp_path / "stopped/student.safetensors")


@pytest.mark.parametrize(("batch", "micro"), [(1, 1), (9, 2)])
def test_a_plan_refuses_micro_batches_of_one_image(recipe_of: Any, batch: int, micro: int) -> None:
    unmixed = {"mixing": {"mixup": 0.0, "cutmix": 0.0}, "training": {"batch_size": batch, "micro_batch_size": micro}}
    with pytest.raises(RecipeError, match="this student cannot be trained on a single image"):
        plan(of_resnet(recipe_of(unmixed), 32), installed_plugins())


class StopAtTheEnd:
    """A KeyboardInterrupt in the hook for the end of the run."""

    def distillkit_run_ended(self) -> None:
        raise KeyboardInterrupt


def test_a_run_is_finished_once_its_report_is_written(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of({"training": {"steps": 2}, "trackers": ["metrics", "report"]})
    run(recipe, tmp_path / "uninterrupted", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAtTheEnd()])
    assert not (tmp_path / "stopped" / "result.json").exists()
    resume(tmp_path / "stopped", installed_plugins())
    assert differences(tmp_path / "uninterrupted", tmp_path / "stopped") == []


def test_metrics_have_no_step_twice_after_a_resume(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of({"training": {"checkpoint_every": 7}})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", installed_plugins(), observers=[StopAt(15)])
    resume(tmp_path / "run", installed_plugins())
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "steps"] == [1, 5, 10, 15, 20, 24]
    assert [record["kind"] for record in records].count("end") == 1


def test_weights_depend_on_the_seed(recipe_of: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(recipe_of({"seed": seed, "training": {"steps": 3}}), tmp_path / name, installed_plugins())
    assert_equal_weights(tmp_path / "a/student.safetensors", tmp_path / "b/student.safetensors")
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "a/student.safetensors", tmp_path / "c/student.safetensors")


@aot_config.patch(donated_buffer=True)
def test_a_compiled_run_keeps_graphs_for_the_gradient_norms(recipe_of: Any) -> None:
    plugins = installed_plugins()
    build_session(plan(recipe_of(), plugins))
    assert aot_config.donated_buffer
    build_session(plan(recipe_of({"training": {"compile": True}}), plugins))
    assert not aot_config.donated_buffer
