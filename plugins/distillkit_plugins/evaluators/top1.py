"""`top1`: accuracy of the model's own predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from distillkit.evaluation import Measurement, Row, Subject, scored, tally
from distillkit.models import check_head
from distillkit_plugins.evaluators.options import Top1Options
from distillkit_plugins.evaluators.real_labels import read_real_labels, real_accuracy

SHOWN_CLASSES = 5


class Top1:
    """Accuracy of the model's predictions and of each of its heads; optionally per class and against ReaL labels.

    All outputs of the model count, also for data with fewer classes, unless `restrict` is set.
    Source: late fusion is DeiT (Touvron et al. 2021, arXiv:2012.12877), section 4; accuracy per class is ADViT's
        table 2.
    """

    learns = False
    shares = True

    Options = Top1Options

    def __init__(self, options: Top1Options) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Measure the accuracy on the evaluated images.

        Raises: UserError for a head that the model lacks or that was never trained; ClassSpaceError; DataError.
        """
        options, answer = self.options, subject.answer
        check_head(options.head, subject.spec, answer, subject=f"'{subject.name}'")
        answer = replace(answer, head=options.head or answer.head, fusion=options.fusion or answer.fusion)
        subject = replace(subject, answer=answer)
        real = (
            None
            if options.real is None
            else read_real_labels(Path(options.real), subject.measured, subject.spec.classes)
        )
        figures, predictions, labels = _predicted(subject, restrict=options.restrict)
        subject.require_some(figures["images"], subject.measured)
        if real is not None:
            figures |= real_accuracy(predictions.tolist(), [real[index] for index in subject.readable()])
        hits = predictions == subject.outputs_of(labels)
        return Measurement(
            title=f"accuracy of the model's predictions{_among(subject, restrict=options.restrict)}",
            figures=figures,
            rows=per_class(hits, labels, subject.class_names) if options.per_class else (),
            settings={
                "head": answer.head,
                "fusion": answer.fusion,
                "real": options.real,
                "restrict": options.restrict,
                "classes": subject.classes if options.restrict else subject.spec.classes,
            },
            notes=_notes(subject, labels, options),
        )


def _predicted(subject: Subject, *, restrict: bool) -> tuple[dict[str, float], Tensor, Tensor]:
    """The figures of the heads, the predicted output of each image, and its label.

    Shapes: predictions [N], outputs of the model; labels [N], classes of the data.
    """
    model, answer = subject.restricted_classifier() if restrict else subject.model, subject.answer
    # Before images are read, for the error of classes that the model does not know.
    outputs = subject.outputs_of(torch.arange(subject.classes, device=subject.device))  # [K]
    predicted: list[Tensor] = []
    labels: list[Tensor] = []

    # Recorded while the accuracy is computed, so that the model runs only once.
    def recorded() -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        batches = subject.batches(subject.measured)
        for scores, classes in scored(model, subject.spec, batches, answer, precision=subject.precision):
            best = scores["answer"].argmax(dim=-1)  # [b]
            predicted.append((outputs[best] if restrict else best).cpu())
            labels.append(classes.cpu())
            # Restricted scores have the classes of the data, the others all outputs.
            yield scores, classes if restrict else outputs[classes]

    figures = tally(recorded(), idle=answer.idle, processes=subject.processes)
    return figures, subject.in_order(predicted), subject.in_order(labels)


def _among(subject: Subject, *, restrict: bool) -> str:
    """What the predictions choose from, where the data has fewer classes than the model; else empty."""
    known, present = subject.spec.classes, subject.classes
    if present >= known:
        return ""
    if restrict:
        return f", restricted to the {present:,} of {known:,} classes that the data has"
    return f", among all {known:,} classes; the data has {present:,}"


def _notes(subject: Subject, labels: Tensor, options: Top1Options) -> tuple[str, ...]:
    """Notes on an option without effect, and on classes without a row. Shapes: labels [N], classes of the data."""
    notes = list(_numbered(subject))
    if options.restrict and subject.classes >= subject.spec.classes:
        notes.append(
            f"restrict has no effect: '{subject.measured.name}' has all {subject.classes:,} classes of the model"
        )
    if options.per_class:
        seen = set(labels.tolist())
        missing = [_class_name(subject.class_names, label) for label in range(subject.classes) if label not in seen]
        shown = ", ".join(f"'{name}'" for name in missing[:SHOWN_CLASSES])
        more = f" and {len(missing) - SHOWN_CLASSES:,} more" if len(missing) > SHOWN_CLASSES else ""
        notes += [f"no row for {shown}{more}, because no image was measured"] if missing else []
    return tuple(notes)


def _class_name(names: tuple[str, ...] | None, label: int) -> str:
    return names[label] if names else str(label)


def _numbered(subject: Subject) -> tuple[str, ...]:
    """A note where folders stand for outputs by number, with the model's name of the first one."""
    names, known, indices = subject.class_names, subject.spec.class_names, subject.class_map.indices
    if not names or not known or indices is None or tuple(map(str, indices)) != names or known == names:
        return ()
    return (f"the folders are named by numbers of the model's outputs: {names[0]} is class '{known[indices[0]]}'",)


def per_class(hits: Tensor, labels: Tensor, names: tuple[str, ...] | None) -> tuple[Row, ...]:
    """Number of images and accuracy in percent of every class; classes without images are left out.

    Shapes: hits [N], whether each prediction is correct; labels [N], int64.
    """
    images = torch.bincount(labels)  # [K]
    right = torch.bincount(labels[hits], minlength=len(images))  # [K]
    return tuple(
        {"class": _class_name(names, label), "images": count, "top1": 100 * correct / count}
        for label, (count, correct) in enumerate(zip(images.tolist(), right.tolist(), strict=True))
        if count
    )
