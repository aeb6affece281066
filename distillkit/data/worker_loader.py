"""Batches of indexed images, made by loader processes; equal for any number of them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from torch.utils.data import Dataset

from distillkit.contracts.incidents import BrokenImage
from distillkit.data.collate import HostBatch, Preparation, Sample
from distillkit.data.decoded_once import DecodedOnce, jobs_of
from distillkit.data.host_batches import host_batches
from distillkit.data.image_faults import broken_image
from distillkit.data.loader_speed import LoaderSpeed
from distillkit.data.micro_batches import micro_batches
from distillkit.data.order import Entries, Order, rank_positions, view_of
from distillkit.data.replacement_images import ATTEMPTS, Replacements
from distillkit.data.training_images import TrainingImages
from distillkit.errors import DataError, RecipeError, UnreadableImageError, UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Layout:
    """The rank that reads, out of `world`; its micro-batch size and its loader processes, None for a measured number.

    `allow_single` is off if the student cannot be trained on a micro-batch of one image.
    """

    rank: int
    world: int
    micro_batch_size: int | None
    workers: int | None
    pin: bool
    allow_single: bool = True

    def micro_batches(self, samples: int) -> tuple[slice, ...]:
        """Slices that split the `samples` of one rank into micro-batches; the last may be smaller."""
        return micro_batches(samples, self.micro_batch_size, allow_single=self.allow_single)


class MicroBatchJob(NamedTuple):
    """Micro-batches to make in one process: their view, and the entries [b, 2] of each, image index and repeat."""

    view: int
    micro_batches: tuple[Entries, ...]


class MicroBatches(Dataset[tuple[HostBatch, ...] | UserError]):
    """Makes micro-batches in a loader process. Without `replacements` an unreadable image is an error."""

    def __init__(
        self, images: TrainingImages, preparation: Preparation, repeats: int, replacements: Replacements | None
    ) -> None:
        self._images = images
        self._source = images.source
        self._preparation = preparation
        self._repeats = repeats
        self._replacements = replacements

    def __getitem__(self, job: MicroBatchJob) -> tuple[HostBatch, ...] | UserError:
        decode = DecodedOnce(partial(self._images.decode, job.view), self._repeats, job.micro_batches)
        try:
            return tuple(self._micro_batch(job.view, entries, decode) for entries in job.micro_batches)
        except UserError as error:
            return error

    def _micro_batch(self, view: int, entries: Entries, decode: DecodedOnce) -> HostBatch:
        broken: list[BrokenImage] = []
        start = time.perf_counter()
        batch = self._preparation(self._samples(view, entries, decode, broken), len(entries), view)
        return batch._replace(broken=tuple(broken), made_in_s=time.perf_counter() - start)

    def _samples(self, view: int, entries: Entries, decode: DecodedOnce, broken: list[BrokenImage]) -> Iterator[Sample]:
        """The sample of each entry, or of its replacement, in order."""
        source = self._source
        for wanted, repeat in entries.tolist():
            index, image = self._readable(wanted, (view, repeat), decode, broken)
            yield Sample(image, source.key(index), repeat, source.label(index), index)

    def _readable(
        self, wanted: int, place: tuple[int, int], decode: DecodedOnce, broken: list[BrokenImage]
    ) -> tuple[int, Image]:
        """Index and image of the wanted image, or of its first readable replacement.

        Raises: DataError if none can be read, or if replacing is off.
        """
        try:
            return wanted, decode(wanted, place[1])
        except UnreadableImageError as error:
            if self._replacements is None:
                raise
            broken.append(broken_image("train", error))
            last = error
        for index in self._replacements.candidates(wanted, self._source.key(wanted), place):
            try:
                return index, decode(index, place[1])
            except UnreadableImageError as error:
                broken.append(broken_image("train", error))
        raise DataError(
            f"image '{last.key}' of '{self._source.name}' cannot be read ({last.reason}), and neither can any of the "
            f"{ATTEMPTS} images tried as a replacement; run `distillkit data check` to list the unreadable images"
        ) from last


@dataclass(frozen=True)
class IndexedWindows:
    """The windows of one rank, in the order of `order`. With `replaces`, unreadable images are replaced.

    Raises: RecipeError if a rank would have no samples.
    """

    images: TrainingImages
    order: Order
    preparation: Preparation
    layout: Layout
    views: int | None
    speed: LoaderSpeed
    replaces: bool = False

    def __post_init__(self) -> None:
        pairs, world = -(-self.order.window // 2), self.layout.world
        if pairs < world:
            raise RecipeError(
                f"a step has {self.order.window} samples, too few for {world} processes, which need at least two "
                f"each; use fewer processes or raise training.batch_size to {2 * world} or more"
            )

    @property
    def facts(self) -> dict[str, float]:
        """Number of loader processes, as `LoaderSpeed.facts`, and bytes of images in memory, if any."""
        memory = self.images.memory
        return self.speed.facts | ({} if memory is None else {"bytes_in_memory": memory.bytes})

    def counts(self, step: int) -> tuple[int, int]:
        """Samples and labelled samples of a window over all ranks."""
        return self.order.window, int(self.order.labelled_per_step[step % self.order.steps_per_epoch])

    def windows(self, start: int, end: int) -> Generator[tuple[HostBatch, ...]]:
        """The micro-batches of each of the steps `start` to `end - 1`, from one loader across all epochs."""
        positions = rank_positions(self.order.window, self.layout.rank, self.layout.world)
        slices = self.layout.micro_batches(len(positions))
        self.images.keep((end - start) * len(positions) // self.order.repeats, self.speed.workers)
        jobs = (
            MicroBatchJob(view, micro_batches)
            for view, window in self._window_entries(start, end)
            for micro_batches in jobs_of([window[positions[part]] for part in slices], self.order.repeats)
        )
        with closing(self._micro_batches(jobs)) as batches:
            for _ in range(start, end):
                window = tuple(next(batches) for _ in slices)
                given = time.perf_counter()
                yield window
                step_s = time.perf_counter() - given
                self.speed.add(1000 * sum(batch.made_in_s for batch in window), 1000 * step_s)

    def _micro_batches(self, jobs: Iterator[MicroBatchJob]) -> Generator[HostBatch]:
        """The micro-batches of all jobs, in order; by another loader once another number of processes is known."""
        replacements = Replacements(self.order.labelled, self.preparation.seed) if self.replaces else None
        dataset = MicroBatches(self.images, self.preparation, self.order.repeats, replacements)
        workers = None
        while workers != self.speed.workers:
            workers = self.speed.workers
            mine = self.speed.while_unchanged(jobs)
            with closing(host_batches(dataset, mine, workers=workers, pin=self.layout.pin)) as made:
                for micro_batches in made:
                    yield from micro_batches

    def _window_entries(self, start: int, end: int) -> Iterator[tuple[int, Entries]]:
        """View and entries [window, 2] of each window. One sequence, so that the loader prefetches across epochs."""
        steps = self.order.steps_per_epoch
        for epoch in range(start // steps, -(-end // steps)):
            windows = self.order.epoch(epoch)
            for step in range(max(start, epoch * steps), min(end, (epoch + 1) * steps)):
                yield view_of(epoch, self.views), windows[step - epoch * steps]
