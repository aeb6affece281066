"""`distillkit evaluate`: measure a student or a teacher by a protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distillkit.compute.devices import pick_device
from distillkit.compute.distributed import ALONE, PATIENCE, process_group
from distillkit.contracts.incidents import BrokenImage, Incidents
from distillkit.contracts.model import ModelSpec
from distillkit.contracts.signal_matching import KINDS, SIGNAL_NAMES
from distillkit.data.selection import Selection
from distillkit.data.sources import Source, Split, Stream, is_stream
from distillkit.data.splits import DataSets, open_datasets
from distillkit.errors import DataError, SignalError, UserError
from distillkit.evaluation.measurement import EvaluationResult, Measurement, append, check_measurement
from distillkit.evaluation.open_model import open_model
from distillkit.evaluation.subject import Evaluator, Subject
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import counted
from distillkit.plugin.error_attribution import blamed
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Data, Recipe
from distillkit.version import __version__

UNBOUNDED = 7 * 24 * 60.0
"""Minutes that the other processes wait while the first one measures alone: fine-tuning may take days."""


def evaluate(  # noqa: PLR0913 - one parameter per option of the command
    target: str,
    plugins: PluginRegistry,
    *,
    protocol: str = "top1",
    options: Mapping[str, Any] | None = None,
    data: str | None = None,
    split: Split | None = None,
    strict: bool = False,
    weights: str | None = None,
    device: str = "auto",
) -> EvaluationResult:
    """Evaluate a model with a protocol; a run's result is appended to `evaluations.jsonl` in its directory.

    `target` is a run directory, a directory inside it with a student (best, ema), or a teacher's name. `options` are
    those of the protocol. `data` is a folder or name, by default the data of the run. `split` is by default test, or
    validation if there are no test images; other data without splits is measured in full, unless the protocol learns.
    Images that cannot be read are left out and counted; with `strict` they are an error. `weights` is a weight file
    for a teacher. All processes return the result of the first one, which alone writes it.
    Raises: RunDirectoryError for an unknown target; SignalError if the model does not reveal what the protocol reads;
        DataError if the data lacks the split or labels; what the protocol raises.
    """
    plugin = plugins.find("evaluator", protocol)
    evaluator: Evaluator = plugin.create(plugin.options(options or {}))
    shares = bool(getattr(evaluator, "shares", False))  # optional, so not part of the Protocol
    with process_group(device, patience=PATIENCE if shares else UNBOUNDED) as processes:
        if not (processes.is_first or shares):
            # Loads nothing, and waits for the result of the first process.
            return _from_text(processes.broadcast(""))
        opened = open_model(target, plugins, weights)
        check_signals(plugin, plugins, opened.spec, target)
        datasets, recipe = _open_data(opened.recipe, data, plugins, unsplit=not evaluator.learns)
        if strict:
            # With a limit of 0, the first unreadable image is an error.
            recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"broken": 0.0})})
        is_unsplit = data is not None and datasets.test is None and datasets.validation is None
        chosen, measured = _choose(datasets, split, protocol=protocol, is_unsplit=is_unsplit)
        if evaluator.learns:
            _check_learning(protocol, datasets, chosen)
        if not processes.is_alone:
            _check_no_stream(datasets.train, datasets.validation, measured)
        torch_device = pick_device(device, processes.local_rank)
        subject = Subject(
            name=target,
            model=opened.model.to(torch_device).eval(),
            spec=opened.spec,
            answer=opened.answer,
            recipe=recipe,
            datasets=datasets,
            split=chosen,
            measured=measured,
            device=torch_device,
            student=opened.student,
            processes=processes if shares else ALONE,
        )
        with blamed(evaluator, "measure"):
            measurement = evaluator.measure(subject)
        check_measurement(evaluator, measurement)
        evaluation = EvaluationResult(
            target=target,
            protocol=protocol,
            data=measured.name,
            split=chosen,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            distillkit=__version__,
            measurement=replace(measurement, notes=(*measurement.notes, *_left_out(subject.unreadable()))),
        )
        text = processes.broadcast(json.dumps(evaluation.as_dict()))
        if not processes.is_first:
            return _from_text(text)
        return evaluation if opened.home is None else _append(opened.home, evaluation)


def _from_text(text: str) -> EvaluationResult:
    """The result of the first process, from its JSON."""
    values = json.loads(text)
    inner: dict[str, Any] = {entry.name: values.pop(entry.name) for entry in fields(Measurement)}
    inner |= {name: tuple(inner[name]) for name in ("rows", "notes")}  # JSON made them lists
    return EvaluationResult(**values, measurement=Measurement(**inner))


def _check_no_stream(*sources: Source | Stream | None) -> None:
    """Raise DataError for a stream: several processes do not read it in the order of one."""
    for source in sources:
        if is_stream(source):
            raise DataError(
                f"'{source.name}' is a stream, and several processes cannot measure a stream in order; use one process"
            )


def _append(home: Path, evaluation: EvaluationResult) -> EvaluationResult:
    """Append a result to its run; if that fails, add a note to the result instead of losing it."""
    try:
        append(home, evaluation)
    except OSError as error:
        measurement = evaluation.measurement
        note = f"result not saved: {home} cannot be written to ({error.strerror})"
        return replace(evaluation, measurement=replace(measurement, notes=(*measurement.notes, note)))
    return evaluation


def _left_out(broken: Iterable[BrokenImage]) -> Iterator[str]:
    """A note for each split with unreadable images."""
    for split, kinds in Incidents(broken).counts().items():
        images = sum(kinds.values())
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        are = "is" if images == 1 else "are"
        yield f"{counted(images, f'{split} image')} cannot be read and {are} left out: {counts}"


def check_signals(evaluator: Plugin, plugins: PluginRegistry, spec: ModelSpec, target: str) -> None:
    """Refuse a protocol that reads a signal which the model does not reveal, and suggest protocols that work."""
    missing = evaluator.spec.signals - spec.signals
    if not missing:
        return
    fitting = [plugin.spec.name for plugin in plugins.listing("evaluator") if plugin.spec.signals <= spec.signals]
    revealed = ", ".join(SIGNAL_NAMES[signal] for signal in SIGNAL_NAMES if signal in spec.signals) or "nothing"
    *others, last = fitting or [""]
    remedy = f"use --protocol {', '.join(others)}{' or ' if others else ''}{last}" if last else "choose another model"
    raise SignalError(
        f"protocol '{evaluator.name}' reads the {SIGNAL_NAMES[min(missing)]} of a model; "
        f"'{target}' is {KINDS[spec.kind]} and reveals {revealed}; {remedy}"
    )


def _open_data(recipe: Recipe, data: str | None, plugins: PluginRegistry, *, unsplit: bool) -> tuple[DataSets, Recipe]:
    """The data of the run, or other `data`, with all of its labels, and the recipe for it.

    With `unsplit`, nothing is held out of `data` for validation if it has no splits of its own.
    """
    changes: dict[str, Any] = {"labels": None}  # a limit for training, not for evaluation
    if data is not None:
        changes |= {"train": data, "unlabeled": None, "test": None}
        # The run's own validation folder, or that it had none, does not apply to other data.
        if isinstance(recipe.data.validation, str) or recipe.data.validation == 0:
            changes["validation"] = Data.model_fields["validation"].default
    table = recipe.data.model_copy(update=changes)
    try:
        datasets = open_datasets(table, plugins)
        if unsplit and data is not None and datasets.test is None and _is_held_out(datasets):
            table = table.model_copy(update={"validation": 0.0})
            datasets = open_datasets(table, plugins)
    except DataError as error:
        if data is not None or recipe.data.train is None:  # the path is not the recipe's
            raise
        raise DataError(
            f"{error}; the run's data path is relative to the folder in which the run was started: "
            "change to that folder, or give --data"
        ) from None
    return datasets, recipe.model_copy(update={"data": table})


def _is_held_out(datasets: DataSets) -> bool:
    """Whether the validation images were held out of the training images."""
    train, held = datasets.train, datasets.validation
    if not isinstance(train, Selection) or not isinstance(held, Selection):
        return False
    return held.parts[0].source is train.parts[0].source


def _choose(datasets: DataSets, split: Split | None, *, protocol: str, is_unsplit: bool) -> tuple[str, Source | Stream]:
    """Name and images of the split to measure, with labels.

    Raises: DataError if there are no labelled images; UserError for an unknown split.
    """
    if datasets.classes is None:
        raise DataError(
            f"protocol '{protocol}' needs labels and '{datasets.train.name}' has none; "
            "give --data with one folder per class"
        )
    sources = {"train": datasets.train, "validation": datasets.validation, "test": datasets.test}
    if split is not None and split not in sources:
        raise UserError(unknown_name("split", split, sources))
    wanted = split or ("train" if is_unsplit else "test" if datasets.test is not None else "validation")
    source = sources[wanted]
    if source is None:
        raise DataError(
            f"'{datasets.train.name}' has no labelled {wanted} images; give --data with some, or another --split"
        )
    if isinstance(source, Selection):
        source = source.only_labelled()
    return "all" if is_unsplit and split is None else wanted, source


def _check_learning(protocol: str, datasets: DataSets, split: str) -> None:
    if split == "train":
        raise DataError(
            f"protocol '{protocol}' learns from the training images and cannot be measured on them; "
            "choose --split validation or test"
        )
    if not datasets.labelled.any():
        raise DataError(
            f"protocol '{protocol}' learns from labelled training images and '{datasets.train.name}' has none; "
            "give --data with some, or use --protocol top1"
        )
