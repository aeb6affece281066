"""Teachers shared by several runs: one forward per micro-batch, and the outputs that each run would have alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from distillkit import BrokenPluginError, ModelSpec, Outputs, Read, Signal, TargetSpec, Wanted
from distillkit.training.shared_teachers import SharedTeachers
from distillkit.training.teacher_targets import LossSlot, TeacherSlot, TeacherTargets

SPEC = ModelSpec(
    "t",
    "t",
    "cnn",
    3,
    frozenset({Signal.LOGITS, Signal.EMBEDDING}),
    (1, 3),
    layers=2,
    widths=(3, 3),
    grids=((1, 1),) * 2,
)
LOGITS, EMBEDDING, BOTH = {Signal.LOGITS: ()}, {Signal.EMBEDDING: (1,)}, {Signal.LOGITS: (), Signal.EMBEDDING: (0, 1)}


class Teacher(nn.Module):
    """Pixels as logits and embeddings; with `drifts`, its logits depend on whether embeddings are computed too."""

    def __init__(self, *, drifts: bool = False) -> None:
        super().__init__()
        self.drifts = drifts
        self.wanted: list[Wanted] = []

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        self.wanted.append(wanted)
        pixels = images[:, 0, 0]
        logits = pixels + 1e-6 if self.drifts and Signal.EMBEDDING in wanted else pixels
        return Outputs(
            logits=logits if Signal.LOGITS in wanted else None,
            embedding=tuple(pixels * (layer + 1) for layer in wanted.get(Signal.EMBEDDING, ())),
        )


class Kept(nn.Module):
    """A loss whose target is everything that it reads."""

    weight = label_weight = 1.0
    reads_student: frozenset[Read] = frozenset()

    def __init__(self, wanted: Wanted, *, fails: bool = False) -> None:
        super().__init__()
        self.reads_teacher = frozenset(Read(signal, layers) for signal, layers in wanted.items())
        self.fails = fails
        names = [signal.value for signal in wanted if not wanted[signal]]
        names += [f"layer {layer}" for layer in wanted.get(Signal.EMBEDDING, ())]
        self.layers = wanted.get(Signal.EMBEDDING, ())
        self.targets: Mapping[str, TargetSpec] = {name: TargetSpec((3,), "float32") for name in names}

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        if self.fails:
            raise ValueError("no")
        kept = {f"layer {layer}": each for layer, each in zip(self.layers, teacher.embedding, strict=True)}
        return kept if teacher.logits is None else {"logits": teacher.logits, **kept}


def targets(teacher: Teacher, wanted: Wanted, *, fails: bool = False) -> TeacherTargets:
    return TeacherTargets({"t": TeacherSlot(teacher, SPEC, wanted)}, {"kept": LossSlot(Kept(wanted, fails=fails), "t")})  # type: ignore[arg-type]


def images_of(batch: int, seed: int) -> Tensor:
    return torch.randn(batch, 1, 1, 3, generator=torch.Generator().manual_seed(seed))


def test_a_teacher_runs_once_on_the_union_after_its_first_batch_of_each_size() -> None:
    teacher = Teacher()
    members = [targets(teacher, wanted) for wanted in (LOGITS, EMBEDDING, LOGITS, BOTH)]
    shared = SharedTeachers()
    for number, batch in enumerate((4, 4, 2, 4)):
        images = images_of(batch, number)
        teacher.wanted.clear()
        with shared.shared_by(members):
            found = [member(images)["kept"] for member in members]
        pixels = images[:, 0, 0]
        assert [sorted(each) for each in found[:3]] == [["logits"], ["layer 1"], ["logits"]]
        assert all(torch.equal(each["logits"], pixels) for each in (found[0], found[2], found[3]))
        assert all(torch.equal(each["layer 1"], 2 * pixels) for each in (found[1], found[3]))
        assert teacher.wanted == ([BOTH, LOGITS, EMBEDDING] if number in {0, 2} else [BOTH])


def test_signals_run_apart_where_a_bit_differs() -> None:
    teacher = Teacher(drifts=True)
    members = [targets(teacher, wanted) for wanted in (LOGITS, BOTH)]
    shared = SharedTeachers()
    for number in range(3):
        images = images_of(4, number)
        with shared.shared_by(members):
            first, second = (member(images)["kept"]["logits"] for member in members)
        assert torch.equal(first, images[:, 0, 0])
        assert torch.equal(second, images[:, 0, 0] + 1e-6)


def test_every_member_gets_its_own_micro_batches_in_turn_and_alone_again_afterwards() -> None:
    """A run takes all micro-batches of a window before the next run begins."""
    teacher = Teacher()
    members = [targets(teacher, LOGITS) for _ in range(2)]
    batches = [images_of(2, number) for number in range(3)]
    shared = SharedTeachers()
    with shared.shared_by(members):
        for member in members:
            for images in batches:
                assert torch.equal(member(images)["kept"]["logits"], images[:, 0, 0])
    assert len(teacher.wanted) == 3
    with shared.shared_by(members[:1]):
        members[0](batches[0])
    members[1](batches[0])
    assert len(teacher.wanted) == 5


def test_the_error_of_one_loss_is_raised_in_its_own_run() -> None:
    teacher = Teacher()
    good, bad = targets(teacher, LOGITS), targets(teacher, LOGITS, fails=True)
    images = images_of(2, 0)
    with SharedTeachers().shared_by([good, bad]):
        assert torch.equal(good(images)["kept"]["logits"], images[:, 0, 0])
        with pytest.raises(BrokenPluginError, match="failed in target: ValueError: no"):
            bad(images)
