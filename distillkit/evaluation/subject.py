"""Interface of evaluators: the Subject that they measure (model, images, settings) and the Evaluator protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from distillkit.compute.devices import pick_precision
from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.incidents import BrokenImage, Incidents
from distillkit.contracts.model import ModelSpec, Outputs, Wanted
from distillkit.data.batches import TrainingData, Window
from distillkit.data.evaluation import EvaluationData, none_readable
from distillkit.data.selection import Selection
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.data.splits import DataSets
from distillkit.errors import ClassSpaceError
from distillkit.evaluation.features import Features, View, extract
from distillkit.evaluation.gather import gather_rows
from distillkit.evaluation.measurement import Measurement
from distillkit.messages.text import visible
from distillkit.models.class_matching import ClassMap, imagenet_class_names, match_classes, numbered_outputs
from distillkit.models.heads import Answer
from distillkit.recipe.image_tables import Augment
from distillkit.recipe.schema import Recipe, StudentEntry, Training


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode on its device, and the images that it is measured on.

    `name` is what the user typed. `measured` are the images of `split`, all with a label. `answer` is the head that the
    model is evaluated by. `recipe` has the resizing and cropping of images, the batch size, and in `data` the origin of
    the images. `student` is the recipe entry for a run that starts from the model, None if it cannot be built as a
    student. `broken` collects the images that this process could not read. `report` is called after
    every batch of images, with the split and the number of images so far and in total.
    """

    name: str
    model: nn.Module
    spec: ModelSpec
    answer: Answer
    recipe: Recipe
    datasets: DataSets
    split: str
    measured: Source | Stream
    device: torch.device
    student: StudentEntry | None = None
    processes: Processes = ALONE
    broken: list[BrokenImage] = field(default_factory=list)
    report: Callable[[str, int, int], None] | None = None

    @property
    def classes(self) -> int:
        """Number of classes of the images, K."""
        return self.datasets.classes or 0

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, if known."""
        return self.datasets.class_names

    @property
    def precision(self) -> torch.dtype:
        """The precision in which the run is evaluated."""
        return pick_precision(self.recipe.training.precision, self.device)

    @cached_property
    def training(self) -> Source | Stream:
        """The labelled training images."""
        train = self.datasets.train
        return train.only_labelled() if isinstance(train, Selection) else train

    @property
    def validation(self) -> Source | Stream | None:
        """Images for choosing a setting: the validation images, unless they are measured."""
        return None if self.split == "validation" else self.datasets.validation

    def augmented(self, *, epochs: int, batch_size: int, seed: int) -> Generator[Window]:
        """The labelled training images, randomly cropped, resized (bilinear) and flipped, in seeded order.

        With several processes each gets its shard of every window, see `together`. The micro-batches of a window have
        images [b, C, H, W] and labels [b, K]; an epoch has floor(n / batch_size) windows, at least one. An image that
        cannot be read is replaced by another.
        """
        # All labelled images, even if the run trained with a part of the labels.
        recipe = Recipe(
            data=self.recipe.data.model_copy(
                update={"seed": seed, "labels": None, "labeled_fraction": None, "views": None}
            ),
            augment=Augment(interpolation="bilinear", orientation=self.recipe.augment.orientation),
            training=Training(batch_size=batch_size, micro_batch_size=self.recipe.evaluation.batch_size),
        )
        spec = replace(self.spec, classes=self.classes)
        data = TrainingData(
            self.datasets.only_labelled(),
            recipe,
            spec=spec,
            device=self.device,
            rank=self.processes.rank,
            world=self.processes.world,
            replace_broken=self.recipe.data.broken > 0,
        )
        with closing(data.windows(0, epochs * data.steps_per_epoch)) as windows:
            for window in windows:
                self.broken.extend(window.broken)
                yield window

    @property
    def _broken_list(self) -> list[BrokenImage] | None:
        """The list for unreadable images; None if the first one is an error."""
        return self.broken if self.recipe.data.broken else None

    def unreadable(self) -> tuple[BrokenImage, ...]:
        """The unreadable images of all processes, each once. Collective: all processes must call it."""
        texts = self.processes.gather(json.dumps(self.broken))
        return Incidents(BrokenImage(*image) for text in texts for image in json.loads(text)).broken

    def readable(self) -> list[int]:
        """Indices of the measured images that were not left out; call it after a pass over them. Collective."""
        left_out = {image.key for image in self.unreadable() if image.split == self.split}
        source = self.measured
        if is_stream(source) or not left_out:
            return list(range(len(source)))
        # Broken images are recorded under their visible key, without control characters.
        return [index for index in range(len(source)) if visible(source.key(index)) not in left_out]

    def require_some(self, seen: float, images: Source | Stream) -> None:
        """Raise DataError if none of `images` could be read."""
        if not seen and len(images):
            raise none_readable(images)

    def _split_of(self, images: Source | Stream) -> str:
        if images is self.measured:
            return self.split
        return "validation" if images is self.datasets.validation else "train"

    def batches(self, images: Source | Stream) -> EvaluationData:
        """Batches without augmentation, as the run evaluates them: images [b, C, H, W], labels [b], on the device.

        With several processes each gets every world-th batch. Images that cannot be read are left out.
        """
        data = EvaluationData(
            images,
            self.spec,
            self.recipe.augment,
            batch_size=self.recipe.evaluation.batch_size,
            workers=self.recipe.data.workers,
            device=self.device,
            split=self._split_of(images),
            broken=self._broken_list,
            report=self.report,
        )
        return data.shard_batches(self.processes.rank, self.processes.world)

    def features(self, images: Source | Stream, view: View) -> Features:
        """Features of all images from the frozen model; with several processes each computes a shard and gets all."""
        batches = self.batches(images)
        features = extract(self.model, self.spec, batches, images=len(batches), view=view, processes=self.processes)
        self.require_some(len(features), images)
        return features

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Gather results for `batches`, [b, ...] each on the CPU, from all processes: [n, ...] in the images' order."""
        rows = torch.cat(list(parts)) if parts else torch.empty(0)  # [m, ...]
        return gather_rows(rows, [len(part) for part in parts], self.processes)

    def together(self, rows: Tensor) -> Tensor:
        """Gather rows [n, ...] from all processes, concatenated by rank, on the device."""
        if self.processes.is_alone:
            return rows
        # broadcast_rows exchanges CPU tensors.
        parts = [self.processes.broadcast_rows(rank, rows.cpu()) for rank in range(self.processes.world)]
        return torch.cat(parts).to(rows.device)

    def restricted_classifier(self) -> nn.Module:
        """The model with only its logits for the classes of the data, in their order: it cannot answer another class.

        Published figures count all outputs, for which `model` predicts and `outputs_of` gives the labels.
        Raises: ClassSpaceError if the model does not know the classes.
        """
        return Mapped(self.model, self.class_map)

    def outputs_of(self, labels: Tensor) -> Tensor:
        """The outputs of the model for labels of the data, any shape, int64.

        Raises: ClassSpaceError if the model does not know the classes.
        """
        indices = self.class_map.indices
        return labels if indices is None else torch.as_tensor(indices, device=labels.device)[labels]

    @cached_property
    def class_map(self) -> ClassMap:
        """Indices of the model's logits for the classes of the data.

        Folders named by numbers are logit indices, unless the model has a class with such a name. The folders of
        ImageNet-V2 are named so, and sort as text ("0", "1", "10", ...).
        Raises: ClassSpaceError.
        """
        names, known, train = self.class_names, self.spec.class_names, self.datasets.train.name
        numbered = numbered_outputs(self.spec, names)
        # A data set such as digits has numbers as names, too: those are classes, and not outputs of any model.
        if numbered is not None and (known in (None, imagenet_class_names()) or Path(train).is_dir()):
            return numbered
        try:
            return match_classes(self.spec, names, self.classes, mode="auto", data=train)
        except ClassSpaceError:
            raise ClassSpaceError(
                f"'{self.name}' predicts {_listed(self.spec.classes, known)} and '{self.datasets.train.name}' has "
                f"{_listed(self.classes, names)}; give --data with classes that the model knows"
            ) from None


class Evaluator(Protocol):
    """An evaluation protocol. `PluginSpec.factory` of an evaluator plugin names the class.

    `learns` says whether it learns from the training images; they are then required, and cannot be measured.
    With several processes, only the first one measures, as if it were alone. With `shares = True` the evaluator is
    called in all of them, and `subject.processes` has the rank. Then `subject.features` returns all images in every
    process, `subject.batches` and `subject.augmented` a shard; all processes must call these in the same order. The
    measurement of the first process is the result.
    `crop` is optional, too: the share of the resized image that the protocol's centre crop keeps. It applies to
    teachers by name at 224 pixels; runs keep their own crop.
    """

    learns: bool

    @property
    def Options(self) -> type[BaseModel]: ...  # noqa: N802 - declares a nested class to mypy

    def __init__(self, options: Any) -> None: ...

    def measure(self, subject: Subject) -> Measurement:
        """Measure the model on the images of `subject.measured`. Must not change the model."""


class Mapped(nn.Module):
    """A model with its logits mapped to the classes of the data. Shapes: images [B, C, H, W] to logits [B, K]."""

    def __init__(self, model: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.model = model
        self.indices = class_map.indices

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        outputs: Outputs = self.model(images, wanted)
        if self.indices is None:
            return outputs
        return replace(
            outputs, logits=self._select(outputs.logits), distill_logits=self._select(outputs.distill_logits)
        )

    def _select(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits[:, torch.as_tensor(self.indices, device=logits.device)]  # [B, K]


def _listed(classes: int, names: tuple[str, ...] | None) -> str:
    shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{classes:,} classes{shown}"
