"""The distillation task and averages over the effective batch, against plain formulas."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from distillkit.contracts.loss import BatchInfo, TargetSpec
from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.data.batches import MicroBatch, Window
from distillkit.errors import BrokenPluginError
from distillkit.plugin.error_attribution import sign
from distillkit.training.task import DistillationTask, Objective, batch_averages
from distillkit.training.teacher_targets import LossSlot, TeacherSlot, TeacherTargets

CLASSES, WIDTH = 4, 3
SPEC = ModelSpec(
    name="linear",
    architecture="linear",
    kind="other",
    classes=CLASSES,
    signals=frozenset({Signal.LOGITS, Signal.DISTILL_LOGITS}),
    image_size=(1, WIDTH),
    head_modules=("head", "head_dist"),
)


class TwoHeads(nn.Module):
    """A student with two linear heads on raw pixels."""

    spec = SPEC

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"head": nn.Linear(WIDTH, CLASSES), "head_dist": nn.Linear(WIDTH, CLASSES)})
        for number, parameter in enumerate(self.network.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.get_default_dtype())
            parameter.data = torch.sin(values + number).view_as(parameter)

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        pixels = images.flatten(1)
        return Outputs(logits=self.network["head"](pixels), distill_logits=self.network["head_dist"](pixels))


class Match(nn.Module):
    """Squared distance of the distillation logits to the target, one value per sample."""

    reads_teacher = frozenset({Read(Signal.LOGITS)})
    reads_student = frozenset({Read(Signal.DISTILL_LOGITS)})
    weight, label_weight, couples_batch = 0.5, 0.5, False
    targets: Mapping[str, TargetSpec] = {"logits": TargetSpec((CLASSES,), "float64")}

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        return {"logits": teacher.logits}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        assert student.distill_logits is not None
        return {"match": (student.distill_logits - target["logits"]).square().sum(dim=1)}


def mixed_batch(samples: int, labelled: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 1, 1, W], soft labels [B, K] with zero rows for unlabelled images, and the label mass [B]."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(samples, 1, 1, WIDTH, generator=generator)
    labels = torch.rand(samples, CLASSES, generator=generator).softmax(dim=1)
    mass = (torch.arange(samples) < labelled).to(images.dtype)
    return images, labels * mass[:, None], mass


def gradients(micro_batch_size: int, dtype: torch.dtype, samples: int = 16, labelled: int = 3) -> list[Tensor]:
    """The gradients (any shape) of the effective batch, accumulated over micro-batches of this size."""
    torch.set_default_dtype(dtype)
    try:
        images, labels, mass = mixed_batch(samples, labelled)
        student = TwoHeads()
        wanted = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
        task = DistillationTask(student, {"match": Match()}, spec=SPEC, wanted=wanted, label_term=True)
        for start in range(0, samples, micro_batch_size):
            part = slice(start, start + micro_batch_size)
            targets = {"match": {"logits": images[part].flatten(1).repeat(1, 2)[:, :CLASSES]}}
            terms = task(images[part], targets, BatchInfo(labels[part], mass[part]))
            averages = batch_averages(terms, samples=samples, labelled=labelled, micro_samples=len(images[part]))
            Objective({"match": 0.7}, 0.3).total(averages).backward()
        return [parameter.grad for parameter in task.parameters() if parameter.grad is not None]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("micro_batch_size", [2, 6, 10])
def test_accumulated_gradients_equal_those_of_the_full_batch(
    dtype: torch.dtype, tolerance: float, micro_batch_size: int
) -> None:
    """16 samples, 3 labelled, with soft labels, a smaller last micro-batch, and micro-batches without labels."""
    full, parts = gradients(16, dtype), gradients(micro_batch_size, dtype)
    assert len(full) == 4
    for left, right in zip(full, parts, strict=True):
        assert float((left - right).abs().max()) <= tolerance * float(left.abs().max())


def test_the_total_loss_by_hand() -> None:
    """The label term is averaged over labelled samples, the distillation term over all; both are weighted."""
    images, labels, mass = mixed_batch(4, 2)
    student = TwoHeads()
    task = DistillationTask(
        student,
        {"match": Match()},
        spec=SPEC,
        wanted={Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()},
        label_term=True,
    )
    target = torch.ones(4, CLASSES)
    terms = task(images, {"match": {"logits": target}}, BatchInfo(labels, mass))
    assert terms["labels"].tolist()[2:] == [0.0, 0.0]
    loss = Objective({"match": 2.0}, 0.25).total(batch_averages(terms, samples=4, labelled=2, micro_samples=4))
    pixels = images.flatten(1)
    logits, distill = student.network["head"](pixels), student.network["head_dist"](pixels)
    label_term = -(labels * logits.log_softmax(dim=1)).sum() / 2
    expected = 0.25 * label_term + 2.0 * (distill - 1).square().sum() / 4
    torch.testing.assert_close(loss, expected)


def test_a_micro_batch_without_labels_gives_the_class_head_a_zero_gradient() -> None:
    images, labels, _ = mixed_batch(4, 2)
    task = DistillationTask(TwoHeads(), {}, spec=SPEC, wanted={Signal.LOGITS: ()}, label_term=True)
    terms = task(images, {}, BatchInfo(torch.zeros_like(labels), torch.zeros(4)))
    averages = batch_averages(terms, samples=4, labelled=0, micro_samples=4)
    Objective({}, 1.0).total(averages).backward()
    gradient = task.student.network["head"].weight.grad  # type: ignore[index, union-attr]
    assert gradient is not None
    assert float(gradient.abs().max()) == 0.0


def test_a_scalar_term_is_weighted_by_its_share_of_the_samples() -> None:
    averages = batch_averages({"crd/pairs": torch.tensor(8.0)}, samples=16, labelled=0, micro_samples=4)
    assert float(averages["crd/pairs"]) == 2.0


class Averaged(Match):
    """Returns a scalar instead of one value per sample."""

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        return {"match": super().forward(student, target, batch)["match"].mean()}


def test_a_term_of_the_wrong_shape_is_refused_with_the_name_of_its_loss() -> None:
    images, labels, mass = mixed_batch(4, 2)
    loss = sign(Averaged(), "loss 'flat' of acme 1.0")
    wanted = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
    task = DistillationTask(TwoHeads(), {"mine": loss}, spec=SPEC, wanted=wanted, label_term=True)
    target = {"mine": {"logits": torch.ones(4, CLASSES)}}
    with pytest.raises(BrokenPluginError) as caught:
        task(images, target, BatchInfo(labels, mass))
    assert str(caught.value) == (
        "loss 'flat' of acme 1.0 returned term 'match' of shape [] from forward; the contract requires [4], "
        "one value per sample"
    )
    loss.couples_batch = True
    assert task(images, target, BatchInfo(labels, mass))["mine/match"].shape == ()


def test_targets_that_differ_from_their_declaration_are_refused() -> None:
    class Teacher(nn.Module):
        def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
            return Outputs(logits=torch.zeros(len(images), CLASSES))

    loss = sign(Match(), "loss 'match' of acme 1.0")
    targets = TeacherTargets({"t": TeacherSlot(Teacher(), SPEC, {Signal.LOGITS: ()})}, {"match": LossSlot(loss, "t")})
    with pytest.raises(BrokenPluginError) as caught:
        targets(torch.zeros(2, 1, 1, WIDTH))
    assert str(caught.value) == (
        "loss 'match' of acme 1.0 returned 'logits' of float32 from target; the contract requires float64, as in "
        "its targets"
    )


def test_windows_and_micro_batches_are_plain_values() -> None:
    images, labels, mass = mixed_batch(2, 2)
    micro_batch = MicroBatch(images=images, labels=labels, label_mass=mass, keys=("a", "b"))
    window = Window(step=0, epoch=0, ends_epoch=True, micro_batches=(micro_batch,), samples=2, labelled=2)
    assert window.micro_batches[0].keys == ("a", "b")
