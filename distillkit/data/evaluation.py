"""Evaluation batches: every image once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
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
from distillkit.data.host_batches import host_batches
from distillkit.data.image_faults import broken_image
from distillkit.data.samples import spread_indices
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.transforms import Transform, evaluation_transform
from distillkit.errors import DataError, UnreadableImageError, UserError
from distillkit.recipe.image_tables import Augment


class EvaluationBatch(NamedTuple):
    """An evaluation batch on the host, and the images that could not be read for it."""

    images: Tensor
    labels: Tensor
    broken: tuple[BrokenImage, ...] = ()


class EvaluationData:
    """Evaluation batches on the device: images [b, C, H, W] and labels [b] int64. Can be iterated repeatedly.

    `limit` is the largest number of images, spread evenly; the first ones of a stream. `report` is called after every
    batch with the split, and the number of images so far and in total, those of the other ranks included.
    An unreadable image is left out, and appended to `broken` with its `split`. If `broken` is None, it is an error.
    Raises: DataError if all images are left out; for a shard, the caller that gathers the shards decides.
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
        limit: int | None = None,
        report: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._source = source
        # Spread evenly, so that a folder sorted by class shows every class.
        self._chosen: Sequence[int] = range(len(source)) if limit is None else spread_indices(len(source), limit)
        self._image_slice = self._batch_slice = slice(None)
        self._split = split
        self._broken = broken
        self._report = report
        self._limit = limit
        self._transform = evaluation_transform(augment, spec)
        self._batch_size = batch_size
        self._workers = loader_processes(workers)
        self._device = device

    def shard_images(self, rank: int, world: int) -> EvaluationData:
        """The shard of one rank: every world-th image. A stream splits its shards between processes by itself."""
        part = copy(self)
        part._image_slice = slice(rank, None, world)  # noqa: SLF001 - one of our own
        return part

    def shard_batches(self, rank: int, world: int) -> EvaluationData:
        """The shard of one rank in batches: every world-th of the batches that a single process would see."""
        part = copy(self)
        part._batch_slice = slice(rank, None, world)  # noqa: SLF001 - one of our own
        return part

    def __len__(self) -> int:
        """The number of images, those of the other ranks included."""
        return len(self._chosen)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left_out = seen = 0
        with closing(self._host_batches()) as batches:
            for images, labels, broken in batches:
                if self._broken is not None:
                    self._broken += broken
                left_out, seen = left_out + len(broken), seen + len(labels)
                if not len(labels):
                    self._reject_empty_batch(len(broken))
                else:
                    yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
                if self._report is not None:
                    ranks = (self._image_slice.step or 1) * (self._batch_slice.step or 1)
                    self._report(self._split, min((seen + left_out) * ranks, len(self)), len(self))
        if left_out and not seen and self._image_slice == self._batch_slice == slice(None):
            raise none_readable(self._source)

    def _reject_empty_batch(self, left_out: int) -> None:
        """Reject an empty batch if batches are sharded: the ranks take turns, so a missing batch breaks the order."""
        if (self._batch_slice.step or 1) > 1:
            raise DataError(
                f"none of the {left_out:,} images of a batch of '{self._source.name}' can be read, and several "
                "processes need at least one to keep the order of the batches; start one process, or repair the "
                "images that `distillkit data check` lists"
            )

    def _host_batches(self) -> Generator[EvaluationBatch]:
        pin = self._device.type == "cuda"
        if is_stream(self._source):
            dataset: Any = _EvaluationStream(self._source, self._transform, self._batch_size, self._limit)
            # At most one loader process: several would interleave their shards, and the order would depend on them.
            return host_batches(dataset, None, workers=min(self._workers, 1), pin=pin)
        mine = self._chosen[self._image_slice]
        batches = [mine[start : start + self._batch_size] for start in range(0, len(mine), self._batch_size)]
        jobs = batches[self._batch_slice]
        dataset = _EvaluationImages(self._source, self._transform, self._split, leaves_out=self._broken is not None)
        # A loader process only pays off if it can make a batch while another one is evaluated.
        return host_batches(dataset, jobs, workers=min(self._workers, max(0, len(jobs) - 1)), pin=pin)


def none_readable(source: Source | Stream) -> DataError:
    """The error for an evaluation set without a readable image."""
    return DataError(
        f"none of the {len(source):,} images of '{source.name}' can be read; `distillkit data check` lists the reasons"
    )


class _EvaluationImages(Dataset[EvaluationBatch | UserError]):
    def __init__(self, source: Source, transform: Transform, split: str, *, leaves_out: bool) -> None:
        self._source = source
        self._transform = transform
        self._split = split
        self._leaves_out = leaves_out

    def __getitem__(self, indices: Sequence[int]) -> EvaluationBatch | UserError:
        try:
            return self._make_batch(indices)
        except UserError as error:
            return error

    def _make_batch(self, indices: Sequence[int]) -> EvaluationBatch:
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
        stacked = torch.stack(images) if images else torch.empty(0)  # [B, C, H, W]
        return EvaluationBatch(stacked, torch.tensor(labels), tuple(broken))

    def _label(self, index: int) -> int:
        label = self._source.label(index)
        if label is None:
            raise DataError(
                f"image '{self._source.key(index)}' of '{self._source.name}' has no label; evaluation needs one for "
                "every image"
            )
        return label


class _EvaluationStream(IterableDataset[EvaluationBatch | UserError]):
    def __init__(self, stream: Stream, transform: Transform, batch_size: int, limit: int | None) -> None:
        self._stream = stream
        self._transform = transform
        self._batch_size = batch_size
        self._limit = limit

    def __iter__(self) -> Iterator[EvaluationBatch | UserError]:
        try:
            yield from self._read()
        except UserError as error:
            yield error

    def _read(self) -> Iterator[EvaluationBatch]:
        read = read_stream(self._stream, 0)
        labelled = ((self._transform(image), label) for image, label in read if label is not None)
        samples = islice(labelled, self._limit)
        while batch := list(islice(samples, self._batch_size)):
            images, labels = zip(*batch, strict=True)
            yield EvaluationBatch(torch.stack(images), torch.tensor(labels))
