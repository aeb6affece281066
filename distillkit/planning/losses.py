"""Plan the losses: build each on the meta device and check the signals that it reads."""

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
    """Build a loss on the meta device and check that its models reveal the signals that it reads.

    `alternatives` are the losses that an error may suggest, see `signals_by_loss`.
    Raises: RecipeError without a teacher; SignalError; BrokenPluginError where `build` fails.
    """
    teacher = recipe.teacher_of(entry)
    spec = teachers[teacher.name] if teacher is not None else student
    # Before `build`, which may rely on at least one of the signals in its PluginSpec.
    if teacher is not None and plugin.spec.signals and not plugin.spec.signals & spec.signals:
        possible = {Read(signal) for signal in plugin.spec.signals}
        check_reads(entry.name, possible, role="teacher", spec=spec, alternatives=alternatives)
    options = plugin.options(entry.options)
    with torch.device("meta"):
        loss: Loss = plugin.call("build", options, student, spec)
    check_declarations(loss, str(plugin))
    # Options may decide what a loss reads, so the built loss is checked too.
    if loss.reads_teacher and teacher is None:
        raise RecipeError(f"loss '{entry.name}' needs a teacher, but the recipe has none; give --teacher")
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
    """Build a planned loss again, on torch's current default device and from its current seed."""
    loss: nn.Module = plan.plugin.call("build", plan.options, student, plan.teacher_spec)
    return loss


def signals_by_loss(losses: Iterable[Plugin]) -> dict[str, frozenset[Signal]]:
    """The teacher signals that each loss reads, built-in losses first; errors suggest alternatives from it."""
    built_in_first = sorted(losses, key=lambda plugin: plugin.owner.distribution != OURS)
    return {plugin.spec.name: plugin.spec.signals for plugin in built_in_first}
