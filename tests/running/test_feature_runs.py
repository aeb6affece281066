"""Runs on a teacher's features: resumed bit-equal with all they prepared, accumulated, and with several teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe, StudentEntry
from distillkit.running.checkpoint_folders import checkpoints
from distillkit.running.start import plan, resume, run
from tests.running.test_exactness import StopAt, assert_equal_weights
from tests.running.test_processes import finished, records, settings

STATISTICS = {"loss": "features", "normalise": "phi-s", "statistics_images": 100, "distance": "mse"}
CNN = {"model": "small-cnn", "width": 4, "image_size": 8}
VIT = {"model": "vit-ti", "patch": 4, "width": 24, "depth": 1, "heads": 2, "image_size": 8}
LOSSES = [STATISTICS, {"loss": "anchors", "anchors": 32}, {"loss": "similarity", "resample": "teacher"}]
UNLIKE = [
    {"model": "timm:test_vit", "name": "vit", "weights": "none", "size": "native"},
    {"model": "timm:test_resnet", "name": "cnn", "weights": "none", "size": 64},
    {"model": "cifar-resnet20", "name": "cifar", "weights": "none"},
]


@pytest.fixture
def recipe(recipe_of: Any, attentive_run: str) -> Any:
    """A CNN that learns from a ViT's features, without labels."""

    def make(*changes: dict[str, Any], losses: Any = LOSSES, student: dict[str, Any] = CNN) -> Recipe:
        tables = {"teachers": [{"model": attentive_run}], "losses": losses, "labels": {"weight": 0.0}}
        made = recipe_of(tables, {"training": {"steps": 12, "checkpoint_every": 5}}, *changes)
        # Not a change: the tables of `recipe_of` are updated, and its student is a ViT.
        return cast("Recipe", made.model_copy(update={"student": StudentEntry.model_validate(student)}))

    return make


def loss_buffers(out: Path) -> dict[str, Tensor]:
    """What the losses prepared, from the last checkpoint of a run."""
    task = load_file(checkpoints(out / "checkpoints")[-1] / "task.safetensors")
    return {name: task[name] for name in task if name.endswith((".mean", ".matrix", ".anchors"))}


@pytest.mark.parametrize("banked", [False, True])
def test_a_stopped_run_ends_bit_equal_with_statistics_anchors_and_bank(
    recipe: Any, tmp_path: Path, banked: bool
) -> None:
    def changes(name: str) -> dict[str, Any]:
        return {"bank": str(tmp_path / name)} if banked else {}

    run(recipe(changes("one")), tmp_path / "whole", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe(changes("two")), tmp_path / "stopped", installed_plugins(), observers=[StopAt(8)])
    resume(tmp_path / "stopped", installed_plugins())
    assert_equal_weights(tmp_path / "whole/student.safetensors", tmp_path / "stopped/student.safetensors")
    whole, stopped = loss_buffers(tmp_path / "whole"), loss_buffers(tmp_path / "stopped")
    assert len(whole) == 5  # mean and matrix of two signals, and the anchors
    assert all(whole[name].equal(stopped[name]) for name in whole)


def test_accumulated_and_whole_batches_give_the_same_weights(recipe: Any, tmp_path: Path) -> None:
    """With LayerNorm in place of the student's BatchNorm, whose statistics are those of a micro-batch."""
    sgd = {"optimizer": {"name": "sgd", "lr": 0.01}}
    for name, size in (("whole", 64), ("parts", 24)):
        parts = {"training": {"micro_batch_size": size, "steps": 4}}
        run(recipe(sgd, parts, student=VIT), tmp_path / name, installed_plugins())
    whole, accumulated = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "parts"))
    for name in whole:
        assert_close(whole[name], accumulated[name], atol=1e-6, rtol=1e-5)


def test_one_bank_serves_every_normalisation_and_student(recipe: Any, tmp_path: Path) -> None:
    bank = {"bank": str(tmp_path / "bank"), "training": {"steps": 2}}
    for number, options in enumerate(({}, {"normalise": "l2", "distance": "cosine"}, {"projector": "mlp2"})):
        wider = CNN | {"width": 4 + number}
        losses = [{**STATISTICS, **options}]
        run(recipe(bank, losses=losses, student=wider), tmp_path / str(number), installed_plugins())
        use = json.loads((tmp_path / f"{number}/result.json").read_text())["bank"]["features"]
        assert bool(use["computed"]) == (number == 0)


def test_three_unlike_teachers_in_one_run(recipe: Any, tmp_path: Path) -> None:
    """A ViT, a residual network and one for 32 pixels, each at its own size, with a projector and weight of its own."""
    losses = [
        {**STATISTICS, "name": f"from-{teacher['name']}", "teacher": teacher["name"], "weight": weight}
        for teacher, weight in zip(UNLIKE, (1.0, 0.5, 0.25), strict=True)
    ]
    recipes = recipe({"teachers": UNLIKE}, {"training": {"steps": 3, "batch_size": 16}}, losses=losses)
    planned = plan(recipes, installed_plugins())
    assert planned.formula == "1 * from-vit + 0.5 * from-cnn + 0.25 * from-cifar"
    assert [teacher.input_size for teacher in planned.teachers.values()] == [(160, 160), (64, 64), (32, 32)]
    assert [loss.prepares for loss in planned.losses.values()] == [100] * 3
    run(recipes, tmp_path / "run", installed_plugins())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if line["kind"] == "steps")
    terms = [
        logged[f"loss/from-{name}/{signal}"] for name in ("vit", "cnn", "cifar") for signal in ("embedding", "patches")
    ]
    # Targets have a variance of 1 in every channel, and a new projector returns almost 0.
    assert all(0.4 < term < 2.5 for term in terms)


def test_two_processes_have_the_curve_of_one(attentive_run: str, tmp_path: Path) -> None:
    teacher = ["--teacher", attentive_run, "--loss", "features:normalise=standardise,statistics_images=100"]
    teacher += ["--loss", "anchors:anchors=32", "--loss", "similarity:resample=teacher"]
    few = settings(training__steps=8, training__log_every=2, labels__weight=0.0)
    for processes in (1, 2):
        code, output = finished(tmp_path / str(processes), *teacher, *few, processes=processes)
        assert code == 0, output
    one, two = (records(tmp_path / str(processes)) for processes in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    alone, together = (loss_buffers(tmp_path / str(processes)) for processes in (1, 2))
    for name in alone:
        assert_close(alone[name], together[name], atol=1e-6, rtol=1e-5)
