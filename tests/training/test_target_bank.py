"""A target bank between teacher and losses: which rows are stored, and when the teacher runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distillkit import BatchInfo, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import Shelf
from distillkit.compute.distributed import ALONE, Processes
from distillkit.training.target_bank import ShelfUse, TargetBank
from distillkit.training.teacher_targets import LossSlot, TeacherSlot, TeacherTargets

CLASSES = 3
SPEC = ModelSpec("t", "t", "other", CLASSES, frozenset({Signal.LOGITS}), (1, CLASSES))


class Logits(nn.Module):
    """A loss that stores the teacher's logits."""

    weight, label_weight = 1.0, 1.0
    reads_teacher = reads_student = frozenset({Read(Signal.LOGITS)})
    targets: Mapping[str, TargetSpec] = {"logits": TargetSpec((CLASSES,), "float32")}

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        return {"logits": teacher.logits}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        raise NotImplementedError


class Teacher(nn.Module):
    """Returns pixels as logits, and counts how often it runs."""

    runs = 0

    def __init__(self, *, sharded: bool) -> None:
        super().__init__()
        self.sharded = sharded

    def forward(self, images: Tensor, wanted: object) -> Outputs:
        self.runs += 1
        return Outputs(logits=images[:, 0, 0])


@dataclass(frozen=True)
class OfTwo(Processes):
    """This process and another one, which needs the teacher at every micro-batch."""

    def max(self, value: int) -> int:
        return 1


Made = Callable[..., tuple[TeacherTargets, Teacher, ShelfUse]]


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """Targets of a loss with a bank, their teacher, and the use of the shelf."""

    def made(processes: Processes = ALONE, *, sharded: bool = False) -> tuple[TeacherTargets, Teacher, ShelfUse]:
        loss, teacher = Logits(), Teacher(sharded=sharded)
        use = ShelfUse(Shelf(tmp_path, b"key", RowFormat.of(loss.targets), writable=True), 0, 0.0)
        slots = {"t": TeacherSlot(teacher, SPEC, {Signal.LOGITS: ()})}
        return TeacherTargets(slots, {"mine": LossSlot(loss, "t")}, TargetBank({"mine": use}), processes), teacher, use

    return made


def images_of(*rows: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Images [B, 3, 1, 3] with these logits, and their addresses [B, 4]."""
    images = torch.tensor(rows, dtype=torch.float32)[:, None, None].expand(-1, 3, 1, -1).contiguous()
    addresses = torch.zeros(len(rows), 4, dtype=torch.int64)
    addresses[:, 0] = torch.arange(len(rows))
    return images, addresses


def test_rows_that_are_not_finite_are_not_stored(make: Made) -> None:
    targets, teacher, use = make()
    batch = images_of((1, 2, 3), (1, float("nan"), 3), (float("inf"), 2, 3), (4, 5, 6))
    for runs in (1, 2):
        given = targets(*batch)["mine"]["logits"]
        assert given[0].tolist() == [1, 2, 3]
        assert given[1].isnan().tolist() == [False, True, False]
        assert given[2].isinf().tolist() == [True, False, False]
        assert teacher.runs == runs
    assert (use.computed, use.written, use.read) == (4 + 2, 2, 2)


def test_the_teacher_runs_only_for_micro_batches_that_lack_a_row(make: Made) -> None:
    targets, teacher, use = make()
    images, addresses = images_of((1, 2, 3), (4, 5, 6), (7, 8, 9))
    targets(images[:2], addresses[:2])
    targets(images[:2], addresses[:2])
    assert (teacher.runs, use.read) == (1, 2)
    given = targets(images, addresses)["mine"]["logits"]
    assert (teacher.runs, use.read, use.written) == (2, 4, 3)
    assert given.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(("sharded", "runs"), [(True, 2), (False, 1)])
def test_a_sharded_teacher_runs_in_all_processes_if_one_needs_it(make: Made, sharded: bool, runs: int) -> None:
    targets, teacher, use = make(OfTwo(), sharded=sharded)
    batch = images_of((1, 2, 3), (4, 5, 6))
    for _ in range(2):
        assert targets(*batch)["mine"]["logits"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert teacher.runs == runs
    assert (use.read, use.written) == (2, 2)
