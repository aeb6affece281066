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

from distillkit.compute.cpus import loader_processes
from distillkit.contracts.incidents import BrokenImage
from distillkit.contracts.model import ModelSpec
from distillkit.data.image_faults import broken_image
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.transforms import Transform, evaluation_transform
from distillkit.data.worker_loader import host_batches
from distillkit.errors import DataError, UnreadableImageError, UserError
from distillkit.recipe.schema import Augment


class Measured(NamedTuple):
    """A batch on the host, and the images that could not be read while it was made."""

    images: Tensor
    labels: Tensor
    broken: tuple[BrokenImage, ...] = ()


class EvaluationData:
    """Batches of images [b, C, H, W] and labels [b] int64 on the device; may be gone through again and again.

    An image that cannot be read is left out, and noted in `broken` as one of the set `split`. Without a `broken` to
    note it in, it is an error.
    Raises: DataError where all images are left out; of a share, the caller that adds the shares up decides.
    """

    def __init__(  # noqa: PLR0913 - what is read, how it is prepared, and where broken images go
        self,
        source: Source | Stream,
        spec: ModelSpec,
        augment: Augment,
        *,
        batch_size: int,
        workers: int | None,
        device: torch.device,
        split: str = "test",
        broken: list[BrokenImage] | None = None,
    ) -> None:
        self._source = source
        self._part = self._turns = slice(None)
        self._split = split
        self._broken = broken
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
        left_out = seen = 0
        with closing(self._on_host()) as batches:
            for images, labels, broken in batches:
                if self._broken is not None:
                    self._broken += broken
                left_out, seen = left_out + len(broken), seen + len(labels)
                if not len(labels):
                    self._require_order(len(broken))
                else:
                    yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        if left_out and not seen and self._part == self._turns == slice(None):
            raise none_readable(self._source)

    def _require_order(self, left_out: int) -> None:
        """Refuse to pass over a whole batch where others count on whose turn it is."""
        if (self._turns.step or 1) > 1:
            raise DataError(
                f"none of {left_out:,} neighbouring images of '{self._source.name}' can be read, and several processes "
                "would lose their order; start one process, or repair what `distillkit data check` finds"
            )

    def _on_host(self) -> Generator[Measured]:
        pin = self._device.type == "cuda"
        if is_stream(self._source):
            dataset: Any = _MeasuredStream(self._source, self._transform, self._batch_size)
            return host_batches(dataset, None, workers=min(self._workers, 1), pin=pin)
        mine = range(len(self))[self._part]
        jobs = [mine[start : start + self._batch_size] for start in range(0, len(mine), self._batch_size)][self._turns]
        dataset = _MeasuredImages(self._source, self._transform, self._split, leaves_out=self._broken is not None)
        # A process is worth its start only where there is a batch to make while another is looked at.
        return host_batches(dataset, jobs, workers=min(self._workers, max(0, len(jobs) - 1)), pin=pin)


def none_readable(source: Source | Stream) -> DataError:
    """What to say where nothing is left to measure on."""
    return DataError(
        f"none of the {len(source):,} images of '{source.name}' can be read; `distillkit data check` says why"
    )


class _MeasuredImages(Dataset[Measured | UserError]):
    def __init__(self, source: Source, transform: Transform, split: str, *, leaves_out: bool) -> None:
        self._source = source
        self._transform = transform
        self._split = split
        self._leaves_out = leaves_out

    def __getitem__(self, indices: range) -> Measured | UserError:
        try:
            return self._measured(indices)
        except UserError as error:
            return error

    def _measured(self, indices: range) -> Measured:
        images: list[Tensor] = []
        labels: list[int] = []
        broken: list[BrokenImage] = []
        for index in indices:
            try:
                images.append(self._transform(load_image(self._source, index)))
                labels.append(self._label(index))
            except UnreadableImageError as error:
                if not self._leaves_out:
                    raise
                broken.append(broken_image(self._split, error))
        return Measured(torch.stack(images) if images else torch.empty(0), torch.tensor(labels), tuple(broken))

    def _label(self, index: int) -> int:
        label = self._source.label(index)
        if label is None:
            raise DataError(
                f"image '{self._source.key(index)}' of '{self._source.name}' has no label to be measured against"
            )
        return label


class _MeasuredStream(IterableDataset[Measured | UserError]):
    def __init__(self, stream: Stream, transform: Transform, batch_size: int) -> None:
        self._stream = stream
        self._transform = transform
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Measured | UserError]:
        try:
            yield from self._read()
        except UserError as error:
            yield error

    def _read(self) -> Iterator[Measured]:
        read = read_stream(self._stream, 0)
        samples = ((self._transform(image), label) for image, label in read if label is not None)
        while batch := list(islice(samples, self._batch_size)):
            images, labels = zip(*batch, strict=True)
            yield Measured(torch.stack(images), torch.tensor(labels))
