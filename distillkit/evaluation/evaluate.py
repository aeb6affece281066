"""`distillkit evaluate`: measure a student or a teacher by a protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distillkit.compute.devices import pick_device
from distillkit.compute.distributed import ALONE, PATIENCE, Processes, process_group
from distillkit.contracts.incidents import Incidents
from distillkit.contracts.model import ModelSpec
from distillkit.contracts.signal_matching import KINDS, SIGNAL_NAMES
from distillkit.data.class_names import evaluation_class_notes
from distillkit.data.lost_classes import lost_class_note, lost_classes
from distillkit.data.sources import Source, Split, Stream, is_stream
from distillkit.errors import DataError, SignalError
from distillkit.evaluation.measured_images import DataChoice, measured_images
from distillkit.evaluation.measurement import EvaluationResult, Measurement, append, check_measurement
from distillkit.evaluation.open_model import EvaluatedModel, open_model
from distillkit.evaluation.preprocessing import Preprocessing, choose_crop
from distillkit.evaluation.subject import Evaluator, Subject
from distillkit.messages.text import counted
from distillkit.models.weight_loading import load_notes
from distillkit.plugin.error_attribution import blamed
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
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
    validation: str | float | None = None,
    strict: bool = False,
    checkpoint: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    crop: float | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate a model with a protocol; a run's result is appended to `evaluations.jsonl` in its directory.

    `target` is a run directory, a directory inside it with a student (best, ema, a checkpoint), or a teacher's name.
    `checkpoint` chooses the student of a run: last, best, ema, or a step. `options` are those of the protocol. `data`
    is a folder or name, by default the data of the run. `split` is by default test, or validation if there are no test
    images; other data without splits is measured in full, unless the protocol learns. `validation` replaces
    `data.validation`: a folder or name, or the share of the training images to hold out. Images that cannot be read are
    left out and counted; with `strict` they are an error. `weights` is a weight file for a teacher. `crop` is the share
    of the resized image that the centre crop keeps; `choose_crop` has its default. `report` is called with a split, and
    the number of its images measured so far and in total. All processes return the result of the first one, which alone
    writes it.
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
        opened = open_model(target, plugins, weights, checkpoint)
        check_signals(plugin, plugins, opened.spec, target)
        opened, preprocessing, crop_notes = choose_crop(opened, evaluator, crop)
        choice = DataChoice(protocol, evaluator.learns, data, split, validation, strict)
        measured = measured_images(opened, plugins, choice)
        if not processes.is_alone:
            _check_no_stream(measured.datasets.train, measured.datasets.validation, measured.images)
        torch_device = pick_device(device, processes.local_rank)
        subject = Subject(
            name=target,
            model=opened.model.to(torch_device).eval(),
            spec=opened.spec,
            answer=opened.answer,
            recipe=measured.recipe,
            datasets=measured.datasets,
            split=measured.split,
            measured=measured.images,
            device=torch_device,
            student=opened.student,
            processes=processes if shares else ALONE,
            report=report if processes.is_first else None,
        )
        measurement = _measurement(evaluator, subject, (*load_notes(opened.model), *crop_notes))
        return _shared(_result(protocol, subject, opened, preprocessing, measurement), processes, opened.home)


def _measurement(evaluator: Evaluator, subject: Subject, notes: tuple[str, ...]) -> Measurement:
    """Measure, and add `notes` and those on classes and unreadable images. Collective.

    Raises: BrokenPluginError for a measurement that breaks the contract; what the protocol raises.
    """
    with blamed(evaluator, "measure"):
        measurement = evaluator.measure(subject)
    check_measurement(evaluator, measurement)
    classes = evaluation_class_notes(subject.split, subject.measured, subject.datasets.class_names)
    return replace(measurement, notes=(*notes, *classes, *measurement.notes, *_left_out(subject)))


def _result(
    protocol: str, subject: Subject, opened: EvaluatedModel, preprocessing: Preprocessing, measurement: Measurement
) -> EvaluationResult:
    """The measurement with everything that says what was measured, and now as its date."""
    return EvaluationResult(
        target=subject.name,
        checkpoint=opened.checkpoint,
        protocol=protocol,
        data=subject.measured.name,
        split=subject.split,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        distillkit=__version__,
        measurement=measurement,
        preprocessing=preprocessing.as_dict(),
    )


def _shared(evaluation: EvaluationResult, processes: Processes, home: Path | None) -> EvaluationResult:
    """The result of the first process, which appends it to its run, in every process."""
    text = processes.broadcast(json.dumps(evaluation.as_dict()))
    if not processes.is_first:
        return _from_text(text)
    return evaluation if home is None else _append(home, evaluation)


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


def _left_out(subject: Subject) -> Iterator[str]:
    """A note for each split with unreadable images, and one for its classes without a readable image. Collective."""
    broken = subject.unreadable()
    sources = {"train": subject.datasets.train, "validation": subject.datasets.validation}
    for split, kinds in Incidents(broken).counts().items():
        images = sum(kinds.values())
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        are = "is" if images == 1 else "are"
        yield f"{counted(images, f'{split} image')} cannot be read and {are} left out: {counts}"
        source = subject.measured if split == subject.split else sources.get(split)
        lost = lost_classes(source, {image.key for image in broken if image.split == split})
        if lost:
            yield lost_class_note(split, lost)


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
