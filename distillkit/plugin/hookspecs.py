"""Every hook, in the order in which a run calls them. A plugin is a module (or object) that defines some of these.

Registration hooks run in every process before anything else; they return static descriptions and should import
neither torch nor timm. Life-cycle hooks run on rank 0 only, in the process that trains.

A plugin's function counts as a hook when its name starts with ``distillkit_``; ``@hookimpl`` is allowed, not needed.
A hook name that is not on this page is an error.
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
    """Name the sources of images that `data.train` and its neighbours may ask for.

    Called: once per process, on every rank.
    Return: one PluginSpec per data set; its factory is a `distillkit.data.sources.SourceFactory`. All answers count.
    Example: plugins/distillkit_plugins/datasets/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_teachers() -> Sequence[PluginSpec]:
    """Name the teachers.

    Called: once per process, on every rank.
    Return: one PluginSpec per teacher; its factory is a ModelFactory. All answers count.
    Example: plugins/distillkit_plugins/teachers/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_students() -> Sequence[PluginSpec]:
    """Name the students.

    Called: once per process, on every rank.
    Return: one PluginSpec per student; its factory is a ModelFactory. All answers count.
    Example: plugins/distillkit_plugins/students/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_losses() -> Sequence[PluginSpec]:
    """Name the losses.

    Called: once per process, on every rank.
    Return: one PluginSpec per loss; its factory is a Loss. All answers count.
    Example: plugins/distillkit_plugins/losses/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_trackers() -> Sequence[PluginSpec]:
    """Name the trackers: objects that follow a run through the life-cycle hooks below.

    Called: once per process, on every rank.
    Return: one PluginSpec per tracker; its factory is called without arguments, on rank 0, for every name in the
        recipe's `trackers`, and the object is registered for that run alone. All answers count.
    Example: plugins/distillkit_plugins/trackers/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_run_started(run: RunInfo) -> None:
    """A run is about to take its first step.

    Called: once, on rank 0, after models and data exist and, on resume, after the checkpoint is restored.
    Must not: change a model.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_steps_logged(run: RunInfo, record: Mapping[str, float]) -> None:
    """An interval of `training.log_every` optimiser steps ended and its averages were read from the device.

    Called: once per interval, on rank 0; the only point at which the loop waits for the device. The first step of a run
        is an interval by itself. An interval of which every step was skipped goes on until the next is due.
    `record`: step, epoch, images_per_s, data_wait (share of the time spent waiting for data), lr, loss, and one
        `loss/<term>` per term, averaged over the interval; of its last step, grad_norm (of all that trains, before
        clipping) and one `grad_norm/<term>` per term: the norm of the gradient of weight times term on the student's
        parameters. The label term is `labels`, a loss's `<loss>/<term>`. Where a norm is not finite, none is there.
        Steps that were skipped are in no average; where there were some, skipped_steps is their number.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_epoch_ended(run: RunInfo, record: Mapping[str, float]) -> None:
    """An epoch ended; if it was an evaluated one, `record` has its figures.

    Called: once per epoch, on rank 0, after evaluation and before the checkpoint.
    `record`: step, epoch and, where evaluated, `validation/<figure>` (class_top1, fused_logits_top1, ...) in percent.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_noted(run: RunInfo, step: int, note: str) -> None:
    """Something happened that does not end the run: images that cannot be read, steps that were skipped.

    Called: on rank 0, once for each sentence, as soon as it is known; of unreadable images at a log interval or after
        an evaluation, of skipped steps at the first in a row. `step` is how many steps were done; `run.incidents` has
        the whole ledger.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_run_ended(run: RunInfo, record: Mapping[str, float], models: RunModels) -> None:
    """A run reached its last step and its student is saved.

    Called: once, on rank 0. `record` has the final figures. `models` are the student and its teachers, still in memory,
        with images to show them.
    Must not: change a model.
    Example: plugins/distillkit_plugins/trackers/report.py
    """
    raise NotImplementedError


@hookspec
def distillkit_run_failed(run: RunInfo, error: BaseException) -> None:
    """A run stopped before its end: an error or an interrupt. The error is raised again afterwards.

    Called: at most once, on rank 0, instead of distillkit_run_ended.
    Example: plugins/distillkit_plugins/trackers/metrics_file.py
    """
    raise NotImplementedError


@hookspec
def distillkit_evaluators() -> Sequence[PluginSpec]:
    """Name the protocols by which `distillkit evaluate` judges a model.

    Called: once per process that evaluates.
    Return: one PluginSpec per protocol; its factory is a `distillkit.evaluation.Evaluator`, and its signals are those
        that it reads of the model. All answers count.
    Example: plugins/distillkit_plugins/evaluators/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_exporters() -> Sequence[PluginSpec]:
    """Name the formats that `distillkit export` can write.

    Called: once per process that exports.
    Return: one PluginSpec per format; its factory is a
    `distillkit.contracts.exporter.ExporterFactory`. All answers count.
    Example: export/distillkit_export/catalog.py
    """
    raise NotImplementedError


@hookspec
def distillkit_runtimes() -> Sequence[PluginSpec]:
    """Name the runtimes in which exported students are executed, checked and timed.

    Called: once per process that exports, profiles or predicts.
    Return: one PluginSpec per runtime; its factory is a
    `distillkit.contracts.runtime.RuntimeFactory`. All answers count.
    Example: export/distillkit_export/catalog.py
    """
    raise NotImplementedError
