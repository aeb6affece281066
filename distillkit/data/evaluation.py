"""What a student is measured on: every image once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from distillkit.contracts import ModelSpec
from distillkit.data.loading import host_batches, loader_processes
from distillkit.data.sources import Source, Stream, load_image
from distillkit.data.transforms import Transform, evaluation_transform
from distillkit.errors import DataError, UserError
from distillkit.recipe import Augment


class Measured(NamedTuple):
    """A batch on the host."""

    images: Tensor
    labels: Tensor


class EvaluationData:
    """Batches of images [b, C, H, W] and labels [b] int64 on the device; may be gone through again and again."""

    def __init__(
        self,
        source: Source | Stream,
        spec: ModelSpec,
        augment: Augment,
        *,
        batch_size: int,
        workers: int | None,
        device: torch.device,
    ) -> None:
        self._source = source
        self._part = self._turns = slice(None)
        self._transform = evaluation_transform(augment, spec)
        self._batch_size = batch_size
        self._workers = loader_processes(workers)
        self._device = device

    def share(self, rank: int, world: int) -> EvaluationData:
        """The part of one of `world` processes: every world-th image. A stream deals out its parts by itself."""
        part = copy(self)
        part._part = slice(rank, None, world)  # noqa: SLF001 - one of our own
        return part

    def deal(self, rank: int, world: int) -> EvaluationData:
        """The part of one of `world` processes in whole batches, every world-th: those that one process would see."""
        part = copy(self)
        part._turns = slice(rank, None, world)  # noqa: SLF001 - one of our own
        return part

    def __len__(self) -> int:
        """The number of images, those of other processes counted."""
        return len(self._source)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with closing(self._on_host()) as batches:
            for images, labels in batches:
                yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def _on_host(self) -> Generator[Measured]:
        pin = self._device.type == "cuda"
        if isinstance(self._source, Stream):
            dataset: Any = _MeasuredStream(self._source, self._transform, self._batch_size)
            return host_batches(dataset, None, workers=min(self._workers, 1), pin=pin)
        mine = range(len(self))[self._part]
        jobs = [mine[start : start + self._batch_size] for start in range(0, len(mine), self._batch_size)][self._turns]
        # A process is worth its start only where there is a batch to make while another is looked at.
        workers = min(self._workers, max(0, len(jobs) - 1))
        return host_batches(_MeasuredImages(self._source, self._transform), jobs, workers=workers, pin=pin)


class _MeasuredImages(Dataset[Measured | UserError]):
    def __init__(self, source: Source, transform: Transform) -> None:
        self._source = source
        self._transform = transform

    def __getitem__(self, indices: range) -> Measured | UserError:
        try:
            images = torch.stack([self._transform(load_image(self._source, index)) for index in indices])
            return Measured(images, torch.tensor([self._label(index) for index in indices]))
        except UserError as error:
            return error

    def _label(self, index: int) -> int:
        label = self._source.label(index)
        if label is None:
            raise DataError(
                f"image '{self._source.key(index)}' of '{self._source.name}' has no label to be measured against"
            )
        return label


class _MeasuredStream(IterableDataset[Measured]):
    def __init__(self, stream: Stream, transform: Transform, batch_size: int) -> None:
        self._stream = stream
        self._transform = transform
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Measured]:
        samples = ((self._transform(image), label) for image, label in self._stream.read(0) if label is not None)
        while batch := list(islice(samples, self._batch_size)):
            images, labels = zip(*batch, strict=True)
            yield Measured(torch.stack(images), torch.tensor(labels))
