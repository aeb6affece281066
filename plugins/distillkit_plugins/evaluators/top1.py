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
        model, batches = subject.classifier(), subject.batches(subject.measured)
        real = (
            None
            if options.real is None
            else read_real_labels(Path(options.real), subject.measured, subject.spec.classes)
        )
        predicted: list[Tensor] = []
        labels: list[Tensor] = []

        # Recorded while the accuracy is computed, so that the model runs only once.
        def recorded() -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
            for scores, classes in scored(model, subject.spec, batches, answer, precision=subject.precision):
                predicted.append(scores["answer"].argmax(dim=-1).cpu())
                labels.append(classes.cpu())
                yield scores, classes

        figures = tally(recorded(), idle=answer.idle, processes=subject.processes)
        subject.require_some(figures["images"], subject.measured)
        predictions, right = subject.in_order(predicted), subject.in_order(labels)
        if real is not None:
            outputs = subject.class_map.indices  # predictions count the data's classes, ReaL labels the model's outputs
            answers = predictions if outputs is None else torch.tensor(outputs)[predictions]
            figures |= real_accuracy(answers.tolist(), [real[index] for index in subject.readable()])
        return Measurement(
            title="accuracy of the model's predictions",
            figures=figures,
            rows=per_class(predictions, right, subject.class_names) if options.per_class else (),
            settings={"head": answer.head, "fusion": answer.fusion, "real": options.real},
        )


def per_class(predictions: Tensor, labels: Tensor, names: tuple[str, ...] | None) -> tuple[Row, ...]:
    """Number of images and accuracy in percent of every class; classes without images are left out.

    Shapes: predictions [N] and labels [N], int64.
    """
    images = torch.bincount(labels)  # [K]
    right = torch.bincount(labels[predictions == labels], minlength=len(images))  # [K]
    return tuple(
        {"class": names[label] if names else str(label), "images": count, "top1": 100 * hits / count}
        for label, (count, hits) in enumerate(zip(images.tolist(), right.tolist(), strict=True))
        if count
    )
