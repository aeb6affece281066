"""The target bank of a run: open the shelves of its losses, once the teachers' weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, cast

import torch
from torch import nn

from distillkit.bank.directory import Bank
from distillkit.bank.inventory import bytes_on_disk
from distillkit.bank.row_format import RowFormat
from distillkit.compute.distributed import Processes
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.planning.bank_facts import shelf_facts, untrained_digest
from distillkit.planning.plan import Plan
from distillkit.planning.teacher_form import teacher_precision
from distillkit.running.teacher_forms import SettledForm
from distillkit.training.target_bank import ShelfUse, TargetBank

COMPARED, COMPARED_IF_DIFFERENT = 64, 512
"""Stored rows that each process compares with the teacher; more where versions or device differ from the shelf's."""
TOLERANCE, TOLERANCE_HALF = 2e-3, 5e-2
"""Relative L2 distance of two targets that rounding explains: for a teacher in float32, and in 16 bits."""
COUNTED = ("read", "computed", "written", "compared", "different")
PACKAGES = ("torch", "torchvision", "timm", "pillow", "numpy")


def open_target_bank(
    plan: Plan,
    losses: Mapping[str, nn.Module],
    weights: Mapping[str, str],
    device: torch.device,
    processes: Processes,
    forms: Mapping[str, SettledForm],
) -> TargetBank | None:
    """The bank of a run, None without one; `weights` are digests of the teachers' tensors, by teacher, as `forms`.

    Raises: BankError if it cannot be opened or created.
    """
    if plan.bank is None:
        return None
    bank = Bank(plan.bank.path)
    uses = {}
    for name in plan.bank.shelves:
        loss = plan.losses[name]
        teacher = plan.teachers[cast("str", loss.teacher)]
        facts = shelf_facts(
            plan,
            loss,
            images=plan.bank.images_digest,
            weights=weights[teacher.entry.name],
            buffers=untrained_digest(losses[name]),
        )
        if teacher.entry.only_in_bank:
            facts = bank.only_fitting(facts, frozenset({"teacher.weights"}))
        form = forms.get(teacher.entry.name, SettledForm(PLAIN, teacher_precision(teacher, device)))
        made_with = _made_with(form.form, device)
        shelf, header = bank.shelf(facts, RowFormat.of(loss.loss.targets), made_with)
        # Shelves of earlier versions were made in the plain form.
        is_same = {"form": str(PLAIN), **header.made_with} == made_with
        uses[name] = ShelfUse(
            shelf,
            0 if teacher.entry.only_in_bank else COMPARED if is_same else COMPARED_IF_DIFFERENT,
            TOLERANCE if form.precision is torch.float32 else TOLERANCE_HALF,
        )
    limit = plan.recipe.bank_limit_gb
    left = None if limit is None else max(0, int(limit * 1e9) - bytes_on_disk(bank)) // processes.world
    return TargetBank(uses, left)


def gathered_notes(bank: TargetBank | None, processes: Processes) -> list[str]:
    """What the bank reports in any process since the last call, each note once; empty but in the first process."""
    if bank is None:
        return []
    gathered = [json.loads(notes) for notes in processes.gather(json.dumps(bank.notes))]
    bank.notes.clear()
    return list(dict.fromkeys(note for notes in gathered for note in notes)) if processes.is_first else []


def counted_targets(bank: TargetBank | None, processes: Processes) -> dict[str, dict[str, int]]:
    """The targets read from the bank, computed and written since the start or the last resume, by loss.

    Adds a note per loss in the first process, also with the number of stored targets that differ from the teacher's.
    """
    if bank is None:
        return {}
    counts = torch.tensor([[getattr(use, name) for name in COUNTED] for use in bank.uses.values()])  # [losses, 5]
    rows = processes.count(counts).tolist()
    found = {loss: dict(zip(COUNTED, row, strict=True)) for loss, row in zip(bank.uses, rows, strict=True)}
    if processes.is_first:
        bank.notes += [_note(loss, **counted) for loss, counted in found.items()]
    return {loss: {name: counted[name] for name in COUNTED[:3]} for loss, counted in found.items()}


def _note(loss: str, *, read: int, computed: int, compared: int, different: int, **_: int) -> str:
    differ = f"; {different:,} of {compared:,} stored targets differ from the teacher's" if different else ""
    return f"bank: {read:,} targets of {loss} read, {computed:,} computed{differ}"


def _made_with(form: TeacherForm, device: torch.device) -> dict[str, Any]:
    """What changes only the last bits of a target, and so is not in the key."""
    return {
        "packages": {package: version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "compiled": form.compiled,
        "form": str(form),
    }
