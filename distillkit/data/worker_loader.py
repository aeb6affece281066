"""Host batches from images with an index, made by any number of loader processes with equal results."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from distillkit.compute.main_guard import require_guard
from distillkit.contracts.incidents import BrokenImage
from distillkit.data.collate import HostBatch, Preparation, Sample
from distillkit.data.image_faults import broken_image
from distillkit.data.order import Entries, Order, share, view_of
from distillkit.data.replacement_images import ATTEMPTS, Substitutes
from distillkit.data.sources import Source, load_image
from distillkit.errors import DataError, RecipeError, UnreadableImageError, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

GRACE_S = 30
"""How long a loader process outlives a request to end: the run may need one more batch to finish its step."""


@dataclass(frozen=True)
class Layout:
    """Who reads: one of `world` processes, in micro-batches, with loader processes of its own."""

    rank: int
    world: int
    micro_batch_size: int | None
    workers: int
    pin: bool

    def micro_batches(self, samples: int) -> tuple[slice, ...]:
        """The parts into which `samples` of one process are split; the last may be ragged."""
        size = self.micro_batch_size or samples
        return tuple(slice(start, start + size) for start in range(0, samples, size))


def host_batches(dataset: Any, jobs: Iterable[Any] | None, *, workers: int, pin: bool) -> Generator[Any]:
    """What `dataset` makes of each job (of nothing, where it is a stream), in order.

    Never touches a global generator. Closing the iterator ends the loader's processes.
    Raises: the UserError that a loader process returned in the place of a batch, or that of `require_guard`.
    """
    if workers:
        require_guard()
    loader = iter(
        DataLoader(
            dataset,
            sampler=jobs,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),
            worker_init_fn=_leave_signals_to_the_run,
        )
    )
    try:
        for batch in loader:
            # Raised in a loader process, it would arrive with a traceback for its message.
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        # A killed process was reported where batches are taken; torch may raise that again here.
        with suppress(RuntimeError):
            getattr(loader, "_shutdown_workers", int)()
        del loader  # the last reference


def _leave_signals_to_the_run(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, and a scheduler may ask every process of a job to end.

    The run alone answers, once its step is done, and ends its loader processes; a loader process that is still there
    after `GRACE_S` ends by itself. A run that is interrupted while it takes a batch hangs up on the process that hands
    it over; that is no fault.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
    usual = sys.excepthook

    def quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            usual(kind, error, trace)

    sys.excepthook = quietly


class MicroBatchJob(NamedTuple):
    """One micro-batch to make."""

    view: int
    entries: Entries


class MicroBatches(Dataset[HostBatch | UserError]):
    """Makes host batches of jobs, in a loader process. Without `substitutes` an unreadable image is an error."""

    def __init__(self, source: Source, preparation: Preparation, substitutes: Substitutes | None) -> None:
        self._source = source
        self._preparation = preparation
        self._substitutes = substitutes

    def __getitem__(self, job: MicroBatchJob) -> HostBatch | UserError:
        broken: list[BrokenImage] = []
        try:
            batch = self._preparation(self._samples(job, broken), len(job.entries), job.view)
        except UserError as error:
            return error
        return batch._replace(broken=tuple(broken))

    def _samples(self, job: MicroBatchJob, broken: list[BrokenImage]) -> Iterator[Sample]:
        """The sample of each entry, or of the one that stands in for it, whose place in the order it takes."""
        source = self._source
        for wanted, repeat in job.entries.tolist():
            index, image = self._readable(wanted, (job.view, repeat), broken)
            yield Sample(image, source.key(index), repeat, source.label(index))

    def _readable(self, wanted: int, place: tuple[int, int], broken: list[BrokenImage]) -> tuple[int, Image]:
        """The image that is wanted, or the first readable one of those that may stand in for it.

        Raises: DataError where none of them can be read, or none may.
        """
        try:
            return wanted, load_image(self._source, wanted)
        except UnreadableImageError as error:
            if self._substitutes is None:
                raise
            broken.append(broken_image("train", error))
            last = error
        for index in self._substitutes.of(wanted, self._source.key(wanted), place):
            try:
                return index, load_image(self._source, index)
            except UnreadableImageError as error:
                broken.append(broken_image("train", error))
        raise DataError(
            f"image '{last.key}' of '{self._source.name}' cannot be read ({last.reason}), and none of the {ATTEMPTS} "
            "images that were to stand in for it can; look at them all with `distillkit data check`"
        ) from last


@dataclass(frozen=True)
class IndexedWindows:
    """The windows of one process, as `order` has them. Unreadable images are replaced, or else an error.

    Raises: RecipeError where a process would have nothing to read.
    """

    source: Source
    order: Order
    preparation: Preparation
    layout: Layout
    views: int | None
    replaces: bool = False

    def __post_init__(self) -> None:
        pairs, world = -(-self.order.window // 2), self.layout.world
        if pairs < world:
            raise RecipeError(
                f"a step has {self.order.window} samples, too few for {world} processes, which need two each; "
                f"use fewer processes or raise training.batch_size to {2 * world} or more"
            )

    def counts(self, step: int) -> tuple[int, int]:
        """Samples, and labelled samples, of a window over all processes."""
        return self.order.window, int(self.order.labelled_per_step[step % self.order.steps_per_epoch])

    def windows(self, start: int, end: int) -> Generator[tuple[HostBatch, ...]]:
        """The micro-batches of each of the steps `start` to `end - 1`, from one loader across all epochs."""
        positions = share(self.order.window, self.layout.rank, self.layout.world)
        slices = self.layout.micro_batches(len(positions))
        substitutes = Substitutes(self.order.labelled, self.preparation.seed) if self.replaces else None
        dataset = MicroBatches(self.source, self.preparation, substitutes)
        jobs = (
            MicroBatchJob(view, window[positions[part]])
            for view, window in self._planned(start, end)
            for part in slices
        )
        with closing(host_batches(dataset, jobs, workers=self.layout.workers, pin=self.layout.pin)) as batches:
            for _ in range(start, end):
                yield tuple(next(batches) for _ in slices)

    def _planned(self, start: int, end: int) -> Iterator[tuple[int, Entries]]:
        """View and entries of each window. The loader reads ahead of the steps, into the next epoch too."""
        steps = self.order.steps_per_epoch
        for epoch in range(start // steps, -(-end // steps)):
            windows = self.order.epoch(epoch)
            for step in range(max(start, epoch * steps), min(end, (epoch + 1) * steps)):
                yield view_of(epoch, self.views), windows[step - epoch * steps]


def _as_it_is(batch: Any) -> Any:
    return batch
