"""Predictions of students, image by image. Imports torch: only used where pictures are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distillkit.comparison.run_facts import RunFacts
from distillkit.compute.devices import pick_device
from distillkit.contracts.model import Signal
from distillkit.data.selection import Selection
from distillkit.errors import DataError, SignalError, UserError
from distillkit.evaluation import scored
from distillkit.evaluation.measured_images import DataChoice, MeasuredImages, measured_images
from distillkit.evaluation.open_model import EvaluatedModel, open_student
from distillkit.evaluation.subject import Subject
from distillkit.messages.text import one_line
from distillkit.plugin.registry import PluginRegistry

if TYPE_CHECKING:
    import torch

    from distillkit.data.sources import Split

ShowImages = Callable[[str, int, int], None]
TOLERANCE = 0.05
"""Percentage points by which a repeated measurement may differ from that of the run, which may have used a GPU."""


@dataclass(frozen=True)
class Answers:
    """The class that the student of each run predicts for the same images.

    `labels` and the predictions by run, `predicted`, are numbers of classes. `indices` are those of the images in
    `source`, which is None if no run could be measured. `notes` name runs that could not be measured, with the reason.
    """

    split: str
    source: Selection
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...] | None
    predicted: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        names = self.class_names
        return names[number] if names and 0 <= number < len(names) else str(number)


def predict(
    runs: Sequence[RunFacts], split: Split, plugins: PluginRegistry, *, device: str, report: ShowImages | None
) -> Answers:
    """The predictions of all runs on the images of a split, which every run opens by its own recipe.

    Raises: DataError if no run could be measured.
    """
    chosen_device = pick_device(device, 0)
    found: dict[str, Answers] = {}
    notes: list[str] = []
    for number, run in enumerate(runs, start=1):
        show = None if report is None else _numbered(report, f"student {number} of {len(runs)}")
        try:
            found[run.name] = _of_run(run, split, plugins, chosen_device, show)
        except UserError as error:
            notes.append(f"images: '{run.name}' is left out: {one_line(error)}")
    if not found:
        raise DataError(f"no student could be measured on images: {notes[0].partition(': ')[2]}")
    return _together(found, notes)


def _numbered(report: ShowImages, what: str) -> ShowImages:
    return lambda split, done, total: report(f"{what}, {split}", done, total)


def _of_run(
    run: RunFacts, split: Split, plugins: PluginRegistry, device: torch.device, report: ShowImages | None
) -> Answers:
    """The predictions of one run."""
    opened = open_student(run.path, plugins)
    choice = DataChoice("top1", learns=False, split=split)
    images = measured_images(opened, plugins, choice)
    if not isinstance(images.images, Selection):
        raise DataError(f"'{images.images.name}' is a stream, whose images cannot be shown")
    if Signal.LOGITS not in opened.spec.signals:
        raise SignalError(f"'{run.name}' predicts no classes: no loss trained its class head")
    subject = _subject(run, opened, images, device, report)
    predicted = tuple(_predicted(subject))
    indices = tuple(subject.readable())
    labels = tuple(int(images.images.labels[index]) for index in indices)
    notes = tuple(_changed(run, split, labels, predicted))
    names = images.datasets.class_names
    return Answers(split, images.images, indices, labels, names, {run.name: predicted}, notes)


def _subject(
    run: RunFacts, opened: EvaluatedModel, images: MeasuredImages, device: torch.device, report: ShowImages | None
) -> Subject:
    return Subject(
        name=run.name,
        model=opened.model.to(device).eval(),
        spec=opened.spec,
        answer=opened.answer,
        recipe=images.recipe,
        datasets=images.datasets,
        split=images.split,
        measured=images.images,
        device=device,
        report=report,
    )


def _predicted(subject: Subject) -> Iterator[int]:
    """The predicted class of each readable image, in order."""
    model = subject.restricted_classifier()
    for scores, _ in scored(
        model, subject.spec, subject.batches(subject.measured), subject.answer, precision=subject.precision
    ):
        yield from scores["answer"].argmax(dim=-1).tolist()


def _changed(run: RunFacts, split: str, labels: Sequence[int], predicted: Sequence[int]) -> Iterator[str]:
    """A note if the accuracy is not that of the run, as after a change of the images or of a library."""
    before = run.figures.get(f"{split}/top1")
    right = sum(label == answer for label, answer in zip(labels, predicted, strict=True))
    now = 100 * right / max(1, len(labels))
    if before is not None and abs(before - now) > TOLERANCE and run.figures[f"{split}/images"] == len(labels):
        yield f"images: {split} top-1 of '{run.name}' is {now:.2f} % here and {before:.2f} % in its result.json"


def _together(found: Mapping[str, Answers], notes: Sequence[str]) -> Answers:
    """The predictions of all runs as one. Raises: DataError if they are of different images."""
    name, first = next(iter(found.items()))
    keys = [first.source.key(index) for index in first.indices]
    for other, answers in found.items():
        if [answers.source.key(index) for index in answers.indices] != keys or answers.labels != first.labels:
            raise DataError(
                f"'{name}' and '{other}' now have different {first.split} images; compare runs of the same data, or "
                "leave out --images"
            )
    predicted = {run: answers.predicted[run] for run, answers in found.items()}
    return replace(
        first, predicted=predicted, notes=(*notes, *(note for each in found.values() for note in each.notes))
    )
