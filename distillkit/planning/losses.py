"""Build each loss for its pair of models and refuse what they cannot reveal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from distillkit.contracts.loss import Loss
from distillkit.contracts.model import ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import check_reads
from distillkit.errors import RecipeError
from distillkit.planning.plan import LossPlan
from distillkit.plugin.registry import PluginRegistry
from distillkit.plugin.runtime_checks import check_declarations
from distillkit.recipe.schema import LossEntry, Recipe


def reads_a_teacher(entry: LossEntry, plugins: PluginRegistry) -> bool:
    """Whether a loss may read a teacher at all, by its registration."""
    return bool(plugins.find("loss", entry.loss).spec.signals)


def plan_loss(
    entry: LossEntry, recipe: Recipe, plugins: PluginRegistry, student: ModelSpec, teachers: Mapping[str, ModelSpec]
) -> LossPlan:
    """Build a loss on the meta device, then hold what it reads against what its models reveal.

    A loss whose teacher reveals none of the signals it may read is refused before it is built, so that `build` may
    rely on at least one.
    Raises: RecipeError without a teacher; SignalError; BrokenPluginError where `build` itself fails.
    """
    owned = plugins.find("loss", entry.loss)
    teacher = recipe.teacher_of(entry)
    if teacher is None and owned.spec.signals:
        raise RecipeError(f"loss '{entry.name}' reads a teacher and the recipe has none; give --teacher")
    spec = teachers[teacher.name] if teacher is not None else student
    alternatives = _alternatives(plugins)
    if teacher is not None and owned.spec.signals and not owned.spec.signals & spec.signals:
        possible = {Read(signal) for signal in owned.spec.signals}
        check_reads(entry.name, possible, role="teacher", spec=spec, alternatives=alternatives)
    options = plugins.options("loss", entry.loss, entry.options)
    with torch.device("meta"):
        loss: Loss = plugins.made("loss", entry.loss, options, student, spec, by="build")
    check_declarations(loss, str(owned))
    if loss.reads_teacher and teacher is None:
        raise RecipeError(f"loss '{entry.name}' reads a teacher and the recipe has none; give --teacher")
    check_reads(entry.name, loss.reads_teacher, role="teacher", spec=spec, alternatives=alternatives)
    check_reads(entry.name, loss.reads_student, role="student", spec=student, alternatives=alternatives)
    return LossPlan(
        name=entry.name,
        plugin=entry.loss,
        options=options,
        loss=loss,
        teacher=teacher.name if teacher is not None and loss.reads_teacher else None,
        teacher_spec=spec,
        weight=loss.weight if entry.weight is None else entry.weight,
    )


def build_loss(plan: LossPlan, student: ModelSpec, plugins: PluginRegistry) -> nn.Module:
    """Build a planned loss again, on torch's current device and under its current seed."""
    loss: nn.Module = plugins.made("loss", plan.plugin, plan.options, student, plan.teacher_spec, by="build")
    return loss


def _alternatives(plugins: PluginRegistry) -> dict[str, frozenset[Signal]]:
    """The other losses and what they read of a teacher, to propose one that would work; the built-in ones first."""
    listed = sorted(plugins.listing("loss"), key=lambda owned: owned.owner.distribution != "distillkit")
    return {owned.spec.name: owned.spec.signals for owned in listed}
