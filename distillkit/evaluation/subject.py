"""What a protocol gets: a model, the images that it is judged by, and how both are looked at."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from distillkit.models.class_matching import ClassMap, imagenet_class_names, match_classes
from distillkit.models.heads import Answer
from distillkit.recipe.schema import Augment, Recipe, StudentEntry, Training


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode on its device, and the images that it is judged by.

    `name` is what the user typed. `measured` are the images of `split`, all with a label. `answer` says which head of
    the model counts. `recipe` says how images are resized and cropped, how many are looked at together, and in `data`
    where these images come from. `student` starts a run from the model, None where no student is built as it is.
    `broken` collects what could not be read of the images that this process went through.
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

    @property
    def classes(self) -> int:
        """How many classes the images have, K."""
        return self.datasets.classes or 0

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Their names, where known."""
        return self.datasets.class_names

    @property
    def precision(self) -> torch.dtype:
        """The arithmetic in which the run measures."""
        return pick_precision(self.recipe.training.precision, self.device)

    @cached_property
    def training(self) -> Source | Stream:
        """The training images that have a label."""
        train = self.datasets.train
        return train.only_labelled() if isinstance(train, Selection) else train

    @property
    def validation(self) -> Source | Stream | None:
        """Images to choose a setting by, where there are some that are not measured."""
        return None if self.split == "validation" else self.datasets.validation

    def augmented(self, *, epochs: int, batch_size: int, seed: int) -> Generator[Window]:
        """The labelled training images, cropped at random, resized (bilinear) and flipped, in seeded order.

        Of several processes each gets its part of every window, see `together`.
        The micro-batches of a window have images [b, C, H, W] and labels [b, K]; an epoch has floor(n / batch_size)
        windows, at least one. An image that cannot be read is replaced by another.
        """
        recipe = Recipe(
            data=self.recipe.data.model_copy(
                update={"seed": seed, "labels": None, "labeled_fraction": None, "views": None}
            ),
            augment=Augment(interpolation="bilinear"),
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
            broken=self._noted,
        )
        return data.windows(0, epochs * data.steps_per_epoch)

    @property
    def _noted(self) -> list[BrokenImage] | None:
        """Where unreadable images are noted; nowhere, where the first one is an error."""
        return self.broken if self.recipe.data.broken else None

    def unreadable(self) -> tuple[BrokenImage, ...]:
        """The images that no process could read, each once. All processes ask, at the same point."""
        texts = self.processes.gather(json.dumps(self.broken))
        return Incidents(BrokenImage(*image) for text in texts for image in json.loads(text)).broken

    def readable(self) -> list[int]:
        """The indices of the measured images that were not left out, once they were gone through; as `unreadable`."""
        left_out = {image.key for image in self.unreadable() if image.split == self.split}
        source = self.measured
        if is_stream(source) or not left_out:
            return list(range(len(source)))
        return [index for index in range(len(source)) if visible(source.key(index)) not in left_out]

    def require_some(self, seen: float, images: Source | Stream) -> None:
        """Raise DataError where none of `images` could be read."""
        if not seen and len(images):
            raise none_readable(images)

    def _split_of(self, images: Source | Stream) -> str:
        if images is self.measured:
            return self.split
        return "validation" if images is self.datasets.validation else "train"

    def batches(self, images: Source | Stream) -> EvaluationData:
        """Images as the run evaluates them, without augmentation: [b, C, H, W] with labels [b], on the device.

        Of several processes each gets every world-th batch. Images that cannot be read are left out.
        """
        data = EvaluationData(
            images,
            self.spec,
            self.recipe.augment,
            batch_size=self.recipe.evaluation.batch_size,
            workers=self.recipe.data.workers,
            device=self.device,
            split=self._split_of(images),
            broken=self._noted,
        )
        return data.shard_batches(self.processes.rank, self.processes.world)

    def features(self, images: Source | Stream, view: View) -> Features:
        """What the frozen model makes of images; of several processes each computes a part and gets the whole."""
        batches = self.batches(images)
        found = extract(self.model, self.spec, batches, images=len(batches), view=view, processes=self.processes)
        self.require_some(len(found), images)
        return found

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """What was found out about `batches`, [b, ...] each on the CPU, as one tensor [n, ...] of all images."""
        rows = torch.cat(list(parts)) if parts else torch.empty(0)
        return gather_rows(rows, [len(part) for part in parts], self.processes)

    def together(self, rows: Tensor) -> Tensor:
        """The rows [n, ...] of all processes, one process after the other, on the device."""
        if self.processes.is_alone:
            return rows
        parts = [self.processes.rows_of(rank, rows.cpu()) for rank in range(self.processes.world)]
        return torch.cat(parts).to(rows.device)

    def classifier(self) -> nn.Module:
        """The model with heads that answer in the classes of the data.

        Raises: ClassSpaceError where it does not know them.
        """
        return Mapped(self.model, self.class_map)

    @cached_property
    def class_map(self) -> ClassMap:
        """Which of the model's outputs are the data's classes.

        A model of ImageNet's classes, or of classes without names, takes folders that are numbers for its outputs of
        these numbers: so come those of ImageNet-V2, whose names sort as text ("0", "1", "10", ...).
        Raises: ClassSpaceError.
        """
        names, known = self.class_names, self.spec.class_names
        if names and all(name.isdecimal() for name in names) and known in (None, imagenet_class_names()):
            numbers = tuple(map(int, names))
            if max(numbers) < self.spec.classes and len(set(numbers)) == len(numbers):
                return ClassMap(numbers)
        try:
            return match_classes(self.spec, names, self.classes, mode="auto", data=self.datasets.train.name)
        except ClassSpaceError:
            raise ClassSpaceError(
                f"'{self.name}' answers in {_listed(self.spec.classes, known)} and '{self.datasets.train.name}' has "
                f"{_listed(self.classes, names)}; give --data with classes that it knows"
            ) from None


class Evaluator(Protocol):
    """One protocol. `PluginSpec.factory` of an evaluator names the class.

    `learns` says whether it learns from the training images, which must then be there and may not be those measured.
    Of several processes the first one alone measures, as if it were one; an evaluator that says `shares = True` is
    called in all of them, where `subject.processes` says which is which. Then `subject.features` are the whole set
    everywhere, `subject.batches` and `subject.augmented` a part; every process must call these in the same order, and
    the measurement of the first one counts.
    """

    learns: bool

    @property
    def Options(self) -> type[BaseModel]: ...  # noqa: N802 - how mypy is told of a class inside the class

    def __init__(self, options: Any) -> None: ...

    def measure(self, subject: Subject) -> Measurement:
        """Judge the model by the images of `subject.measured`. Must not change it."""


class Mapped(nn.Module):
    """A model whose heads answer in the classes of the data."""

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
        return None if logits is None else logits[:, torch.as_tensor(self.indices, device=logits.device)]


def _listed(classes: int, names: tuple[str, ...] | None) -> str:
    shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{classes:,} classes{shown}"
