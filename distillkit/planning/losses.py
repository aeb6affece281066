"""Build each loss for its pair of models and refuse what they cannot reveal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from distillkit.contracts.loss import Loss
from distillkit.contracts.model import ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import check_reads
from distillkit.errors import RecipeError
from distillkit.planning.plan import LossPlan
from distillkit.plugin.disabled import OURS
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.runtime_checks import check_declarations
from distillkit.recipe.schema import LossEntry, Recipe


def plan_loss(
    plugin: Plugin,
    entry: LossEntry,
    recipe: Recipe,
    student: ModelSpec,
    teachers: Mapping[str, ModelSpec],
    alternatives: Mapping[str, frozenset[Signal]],
) -> LossPlan:
    """Build a loss on the meta device, then hold what it reads against what its models reveal.

    A loss whose teacher reveals none of the signals it may read is refused before it is built, so that `build` may
    rely on at least one. `alternatives` are the losses that a refusal may propose, see `signals_by_loss`.
    Raises: RecipeError without a teacher; SignalError; BrokenPluginError where `build` itself fails.
    """
    teacher = recipe.teacher_of(entry)
    if teacher is None and plugin.spec.signals:
        raise RecipeError(f"loss '{entry.name}' reads a teacher and the recipe has none; give --teacher")
    spec = teachers[teacher.name] if teacher is not None else student
    if teacher is not None and plugin.spec.signals and not plugin.spec.signals & spec.signals:
        possible = {Read(signal) for signal in plugin.spec.signals}
        check_reads(entry.name, possible, role="teacher", spec=spec, alternatives=alternatives)
    options = plugin.options(entry.options)
    with torch.device("meta"):
        loss: Loss = plugin.call("build", options, student, spec)
    check_declarations(loss, str(plugin))
    if loss.reads_teacher and teacher is None:
        raise RecipeError(f"loss '{entry.name}' reads a teacher and the recipe has none; give --teacher")
    check_reads(entry.name, loss.reads_teacher, role="teacher", spec=spec, alternatives=alternatives)
    check_reads(entry.name, loss.reads_student, role="student", spec=student, alternatives=alternatives)
    return LossPlan(
        name=entry.name,
        plugin=plugin,
        options=options,
        loss=loss,
        teacher=teacher.name if teacher is not None and loss.reads_teacher else None,
        teacher_spec=spec,
        weight=loss.weight if entry.weight is None else entry.weight,
    )


def build_loss(plan: LossPlan, student: ModelSpec) -> nn.Module:
    """Build a planned loss again, on torch's current device and under its current seed."""
    loss: nn.Module = plan.plugin.call("build", plan.options, student, plan.teacher_spec)
    return loss


def signals_by_loss(losses: Iterable[Plugin]) -> dict[str, frozenset[Signal]]:
    """What each loss reads of a teacher, to propose one that would work; the built-in ones first."""
    built_in_first = sorted(losses, key=lambda plugin: plugin.owner.distribution != OURS)
    return {plugin.spec.name: plugin.spec.signals for plugin in built_in_first}
