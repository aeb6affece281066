"""All hooks, in the order in which a run calls them. A plugin is a module (or object) that defines some of them.

Registration hooks run in every process before anything else. They return static descriptions and should import
neither torch nor timm. Life-cycle hooks run on rank 0 only, in the training process.

A function is a hook if its name starts with ``distillkit_``; ``@hookimpl`` is allowed but not needed. A hook name that
is not on this page is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from distillkit.contracts.plugin import PluginSpec
    from distillkit.contracts.run import RunInfo, RunModels

hookspec = pluggy.HookspecMarker("distillkit")
hookimpl = pluggy.HookimplMarker("distillkit")


@hookspec
def distillkit_datasets() -> Sequence[PluginSpec]:
    """Register data sets, for `data.train` and the other data keys.

    Called: once per process, on every rank.
    Return: one PluginSpec per data set; its factory is a `distillkit.data.sources.SourceFactory`. All results are used.
    Example: plugins/distillkit_plugins/datasets/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_teachers() -> Sequence[PluginSpec]:
    """Register teachers.

    Called: once per process, on every rank.
    Return: one PluginSpec per teacher; its factory is a ModelFactory. All results are used.
    Example: plugins/distillkit_plugins/teachers/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_students() -> Sequence[PluginSpec]:
    """Register students.

    Called: once per process, on every rank.
    Return: one PluginSpec per student; its factory is a ModelFactory. All results are used.
    Example: plugins/distillkit_plugins/students/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_losses() -> Sequence[PluginSpec]:
    """Register losses.

    Called: once per process, on every rank.
    Return: one PluginSpec per loss; its factory is a Loss. All results are used.
    Example: plugins/distillkit_plugins/losses/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_trackers() -> Sequence[PluginSpec]:
    """Register trackers: objects that observe a run through the life-cycle hooks below.

    Called: once per process, on every rank.
    Return: one PluginSpec per tracker; its factory is called without arguments, on rank 0, for every name in the
        recipe's `trackers`, and the object is registered for that run only. All results are used.
    Example: plugins/distillkit_plugins/trackers/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_run_started(run: RunInfo) -> None:
    """A run is about to start its first step.

    Called: once, on rank 0, after models and data are loaded and, on resume, after the checkpoint is restored.
    Must not: change a model.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_steps_logged(run: RunInfo, record: Mapping[str, float]) -> None:
    """An interval of `training.log_every` optimiser steps ended and its averages were read from the device.

    Called: once per interval, on rank 0; the only point at which the loop waits for the device. The first step of a run
        is a separate interval. An interval with only skipped steps is merged into the next one.
    `record`: step, epoch, images_per_s, data_wait (share of the time spent waiting for data), lr, loss, and one
        `loss/<term>` per term, averaged over the interval. For the last step of the interval: grad_norm (of all trained
        parameters, before clipping) and one `grad_norm/<term>` per term, the norm of the gradient of weight times term
        on the student's parameters; no norms if one is not finite. The label term is `labels`, the terms of a loss are
        `<loss>/<term>`. Averages exclude skipped steps; skipped_steps is their number, if there are any.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_epoch_ended(run: RunInfo, record: Mapping[str, float]) -> None:
    """An epoch ended; `record` has figures if it was evaluated.

    Called: once per epoch, on rank 0, after evaluation and before the checkpoint.
    `record`: step, epoch and, where evaluated, `validation/<figure>` (class_top1, fused_logits_top1, ...) in percent.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_noted(run: RunInfo, step: int, note: str) -> None:
    """A run noted an incident that does not end it: unreadable images or skipped steps.

    Called: once per note, on rank 0; for unreadable images at a log interval or after an evaluation, for skipped steps
        at the first of several in a row. `step` is the number of completed steps; `run.incidents` has all incidents so
        far.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_run_ended(run: RunInfo, record: Mapping[str, float], models: RunModels) -> None:
    """A run completed its last step and saved its student.

    Called: once, on rank 0. `record` has the final figures. `models` has the student and its teachers, still in memory,
        and sample images.
    Must not: change a model.
    Example: plugins/distillkit_plugins/trackers/report.py
    """
    raise NotImplementedError


@hookspec
def distillkit_run_failed(run: RunInfo, error: BaseException) -> None:
    """A run stopped early, by an error or an interrupt. The error is raised again afterwards.

    Called: at most once, on rank 0, instead of distillkit_run_ended.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_evaluators() -> Sequence[PluginSpec]:
    """Register protocols for `distillkit evaluate`.

    Called: once per process that evaluates.
    Return: one PluginSpec per protocol; its factory is a `distillkit.evaluation.Evaluator`, and its signals are those
        that it reads from the model. All results are used.
    Example: plugins/distillkit_plugins/evaluators/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_exporters() -> Sequence[PluginSpec]:
    """Register formats for `distillkit export`.

    Called: once per process that exports.
    Return: one PluginSpec per format; its factory is a `distillkit.contracts.exporter.ExporterFactory`. All results are
        used.
    Example: export/distillkit_export/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_runtimes() -> Sequence[PluginSpec]:
    """Register runtimes that execute exported students, for parity checks, profiling and prediction.

    Called: once per process that exports, profiles or predicts.
    Return: one PluginSpec per runtime; its factory is a `distillkit.contracts.runtime.RuntimeFactory`. All results are
        used.
    Example: export/distillkit_export/catalog.py
    """
    raise NotImplementedError
