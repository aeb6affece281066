"""Losses that are prepared before the first step: once, on the same images, kept in checkpoints, shown in plans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from distillkit import BatchInfo, BrokenPluginError, DataError, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit.errors import BankError
from distillkit.planning.render import plan_lines
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.running.fill_bank import fill_bank
from distillkit.running.start import plan, resume, run
from tests.running.test_exactness import StopAt, assert_equal_weights

LOGITS = frozenset({Read(Signal.LOGITS)})


class Centred(nn.Module):
    """Distance to the teacher's logits minus their mean over some training images."""

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        images: int = Field(100)
        least: int = Field(1)

    weight = 1.0
    label_weight = 0.0
    reads_teacher = reads_student = LOGITS
    prepared: ClassVar[list[Tensor]] = []
    """The images' logits of every call of `prepare`."""
    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []
    """Index and labels of every batch."""
    targets_seen: ClassVar[list[Tensor]] = []
    """The teacher's logits of every batch."""
    target_options: frozenset[str] = frozenset()
    target_buffers: frozenset[str] = frozenset()

    def __init__(self, options: Any, classes: int) -> None:
        super().__init__()
        self.prepare_images, self.prepare_at_least = options.images, options.least
        self.targets = {"logits": TargetSpec((classes,), "float32")}
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(classes))

    @classmethod
    def build(cls, options: Any, student: ModelSpec, teacher: ModelSpec) -> Centred:
        return cls(options, teacher.classes)

    def prepare(self, teacher: Iterable[Outputs]) -> None:
        logits = torch.cat([outputs.logits for outputs in teacher if outputs.logits is not None])
        self.prepared.append(logits)
        self.mean.copy_(logits.double().mean(dim=0))

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        return {"logits": teacher.logits.float()}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        assert student.logits is not None
        if batch.index is not None and batch.labels is not None and not batch.index.is_meta:
            self.seen.append((batch.index, batch.labels))
            self.targets_seen.append(target["logits"])
        return {"distance": (student.logits - target["logits"] + self.mean).square().mean(dim=1)}


class CentredTarget(Centred):
    target_buffers = frozenset({"mean"})

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"logits": super().target(teacher)["logits"] - self.mean}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        assert student.logits is not None
        return {"distance": (student.logits - target["logits"]).square().mean(dim=1)}


class NotFinite(Centred):
    def prepare(self, teacher: Iterable[Outputs]) -> None:
        self.mean.fill_(torch.nan)


class NeedsIndex(Centred):
    needs_index = True


LOSSES = {"centred": Centred, "centred-target": CentredTarget, "not-finite": NotFinite, "needs-index": NeedsIndex}


@pytest.fixture
def registry(registry_of: Any) -> PluginRegistry:
    Centred.prepared.clear()
    Centred.seen.clear()
    Centred.targets_seen.clear()
    made: PluginRegistry = registry_of("loss", LOSSES, installed_plugins())
    return made


@pytest.fixture
def recipe(recipe_of: Any, teacher_run: str) -> Any:
    def make(loss: str = "centred", *changes: dict[str, Any], **options: Any) -> Any:
        losses = {
            "losses": [{"loss": loss, **options}],
            "teachers": [{"model": teacher_run}],
            "labels": {"weight": 0.5},
        }
        return recipe_of(losses, {"training": {"steps": 12, "checkpoint_every": 5}}, *changes)

    return make


def test_the_first_images_of_the_run_prepare_it_once_also_with_a_resume(
    recipe: Any, registry: PluginRegistry, tmp_path: Path
) -> None:
    run(recipe(), tmp_path / "whole", registry)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), tmp_path / "stopped", registry, observers=[StopAt(8)])
    first, second = Centred.prepared
    assert first.shape[0] == 100
    assert torch.equal(first, second)
    resume(tmp_path / "stopped", registry)
    assert len(Centred.prepared) == 2
    assert_equal_weights(tmp_path / "whole/student.safetensors", tmp_path / "stopped/student.safetensors")


@pytest.mark.parametrize(
    ("mode", "batch_size", "micro_batch_size"),
    [("pair", 33, None), ("batch", 33, None), ("batch", 90, None), ("pair", 90, 26), ("batch", 90, 26), ("off", 7, 3)],
)
def test_it_is_prepared_on_the_images_of_the_first_steps_mixed_as_there(
    recipe: Any, registry: PluginRegistry, tmp_path: Path, mode: str, batch_size: int, micro_batch_size: int | None
) -> None:
    strength = 0.0 if mode == "off" else 1.0
    mixing = {"mixup": strength, "cutmix": strength, "mode": "pair" if mode == "off" else mode}
    sizes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "steps": 12}
    run(recipe("centred", {"mixing": mixing, "training": sizes}, images=71), tmp_path / "run", registry)
    [prepared] = Centred.prepared
    assert prepared.shape[0] == 71
    torch.testing.assert_close(prepared, torch.cat(Centred.targets_seen)[:71])


def test_a_plan_counts_and_shows_the_preparation(recipe: Any, registry: PluginRegistry) -> None:
    with_few, without = plan(recipe(images=100), registry), plan(recipe(images=1), registry)
    assert [loss.prepares for loss in with_few.losses.values()] == [100]
    teacher_flops = with_few.cost.teacher_flops
    assert with_few.cost.total_flops - without.cost.total_flops == 99 * teacher_flops
    [teacher] = with_few.teachers
    line = f"centred is prepared before the first step, with teacher '{teacher}' on 100 training images"
    assert line in [text for _, text in plan_lines(with_few)]
    assert plan(recipe(images=100_000), registry).losses["centred"].prepares == with_few.steps_per_epoch * 64


def test_too_few_images_are_refused_by_the_plan(recipe: Any, registry: PluginRegistry) -> None:
    with pytest.raises(DataError) as refusal:
        plan(recipe(images=5000, least=5000), registry)
    assert str(refusal.value) == (
        "loss 'centred' is prepared on at least 5,000 training images, and an epoch has 1,152; give more images, or "
        "set options of the loss that need fewer (docs/losses.md)"
    )


def test_the_refusal_names_the_option_of_the_loss_that_needs_fewer(registry: PluginRegistry) -> None:
    wanted = load_recipe("digits", loss="anchors:anchors=2048", teacher="cifar-resnet20", teacher_weights="none")
    with pytest.raises(DataError) as refusal:
        plan(wanted, registry)
    assert str(refusal.value) == (
        "loss 'anchors' is prepared on at least 2,048 training images, and an epoch has 1,152; give more images, or "
        "set a smaller number of anchors"
    )


def test_buffers_that_are_not_finite_are_refused(recipe: Any, registry: PluginRegistry, tmp_path: Path) -> None:
    with pytest.raises(BrokenPluginError, match="returned buffer 'mean' with values that are not finite from prepare"):
        run(recipe("not-finite"), tmp_path / "run", registry)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("loss", "shelves"), [("centred", 1), ("centred-target", 2)])
def test_a_banks_key_has_the_buffers_that_the_target_depends_on(
    recipe: Any, registry: PluginRegistry, tmp_path: Path, loss: str, shelves: int
) -> None:
    bank = {"bank": str(tmp_path / "bank"), "training": {"steps": 3}}
    for number, images in enumerate((100, 100, 50)):
        run(recipe(loss, bank, images=images), tmp_path / str(number), registry)
        use = json.loads((tmp_path / f"{number}/result.json").read_text())["bank"][loss]
        assert bool(use["computed"]) == (number == 0 or (number == 2 and shelves == 2))
    filled = fill_bank(plan(recipe(loss, bank, images=50), registry), lambda _done, _total: None)
    assert filled.uses[loss].computed == 0


def test_a_teacher_without_weights_cannot_prepare(
    recipe: Any, registry: PluginRegistry, teacher_run: str, tmp_path: Path
) -> None:
    bank = {"bank": str(tmp_path / "bank"), "teachers": [{"model": teacher_run, "name": "cnn", "weights": "bank"}]}
    with pytest.raises(BankError) as refusal:
        plan(recipe("centred", bank), registry)
    assert str(refusal.value) == (
        "loss 'centred' is prepared with outputs of teacher 'cnn' before the first step, and that has "
        'weights = "bank"; give its weights'
    )


def test_a_loss_gets_the_number_of_each_image(recipe: Any, registry: PluginRegistry, tmp_path: Path) -> None:
    run(recipe("centred", {"mixing": {"mixup": 0.0, "cutmix": 0.0}}), tmp_path / "run", registry)
    source = plan(recipe(), registry).datasets.train
    for index, labels in Centred.seen:
        assert index.dtype == torch.int64
        assert [source.label(number) for number in index.tolist()] == labels.argmax(dim=1).tolist()  # type: ignore[union-attr]
