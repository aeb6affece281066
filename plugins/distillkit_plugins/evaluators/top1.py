"""`top1`: accuracy of the model's own predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from distillkit.evaluation import Measurement, Row, Subject, scored, tally
from distillkit.models import check_head
from distillkit_plugins.evaluators.real_labels import read_real_labels, real_accuracy


class Top1:
    """Accuracy of the model's predictions and of each of its heads; optionally per class and against ReaL labels.

    All outputs of the model count, also for data with fewer classes, unless `restrict` is set.
    Source: late fusion is DeiT (Touvron et al. 2021, arXiv:2012.12877), section 4; accuracy per class is ADViT's
        table 2.
    """

    learns = False
    shares = True

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """Head to evaluate, and additional results."""

        head: Literal["fused", "class", "distill"] | None = Field(
            None, description="head whose prediction is evaluated; default: the run's"
        )
        fusion: Literal["logits", "softmax"] | None = Field(
            None, description="fusion of two heads: mean of logits or sum of softmaxes; default: the run's"
        )
        per_class: bool = Field(False, description="add a row per class")
        restrict: bool = Field(False, description="count only the outputs for the classes of the data")
        real: str | None = Field(
            None, description="ReaL label file: JSON, the acceptable classes of each image, in the order of file names"
        )

    def __init__(self, options: Options) -> None:
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
            notes=_notes(subject, restrict=options.restrict),
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


def _notes(subject: Subject, *, restrict: bool) -> tuple[str, ...]:
    if not restrict or subject.classes < subject.spec.classes:
        return ()
    return (f"restrict has no effect: '{subject.measured.name}' has all {subject.classes:,} classes of the model",)


def per_class(hits: Tensor, labels: Tensor, names: tuple[str, ...] | None) -> tuple[Row, ...]:
    """Number of images and accuracy in percent of every class; classes without images are left out.

    Shapes: hits [N], whether each prediction is correct; labels [N], int64.
    """
    images = torch.bincount(labels)  # [K]
    right = torch.bincount(labels[hits], minlength=len(images))  # [K]
    return tuple(
        {"class": names[label] if names else str(label), "images": count, "top1": 100 * correct / count}
        for label, (count, correct) in enumerate(zip(images.tolist(), right.tolist(), strict=True))
        if count
    )
