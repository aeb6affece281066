"""Batches of indexed images, made by loader processes; equal for any number of them."""

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
from distillkit.data.order import Entries, Order, rank_positions, view_of
from distillkit.data.replacement_images import ATTEMPTS, Replacements
from distillkit.data.sources import Source, load_image
from distillkit.errors import DataError, RecipeError, UnreadableImageError, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

GRACE_S = 30
"""Seconds that a loader process lives on after SIGTERM: the run may need one more batch to finish its step."""


@dataclass(frozen=True)
class Layout:
    """The rank that reads, out of `world`; its micro-batch size and its loader processes."""

    rank: int
    world: int
    micro_batch_size: int | None
    workers: int
    pin: bool

    def micro_batches(self, samples: int) -> tuple[slice, ...]:
        """Slices that split the `samples` of one rank into micro-batches; the last may be smaller."""
        size = self.micro_batch_size or samples
        return tuple(slice(start, start + size) for start in range(0, samples, size))


def host_batches(dataset: Any, jobs: Iterable[Any] | None, *, workers: int, pin: bool) -> Generator[Any]:
    """The batch that `dataset` makes of each job, in order; `jobs` is None for a stream.

    Leaves the global generators unchanged. Closing the iterator ends the loader processes.
    Raises: a UserError that a loader process returned instead of a batch, or the one of `require_guard`.
    """
    if workers:
        require_guard()
    loader = iter(
        DataLoader(
            dataset,
            sampler=jobs,
            batch_size=None,  # a job is a complete batch
            collate_fn=_identity,  # the default converts NumPy arrays to tensors
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),  # without one, DataLoader draws its seed from the global generator
            worker_init_fn=_ignore_run_signals,
        )
    )
    try:
        for batch in loader:
            # Returned, not raised: torch would put the worker's traceback into the message.
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        # A killed loader process has already raised in the loop above; torch may raise again here.
        with suppress(RuntimeError):
            getattr(loader, "_shutdown_workers", int)()
        del loader  # the last reference


def _ignore_run_signals(_worker: int) -> None:
    """Ignore Ctrl-C and SIGUSR1 in a loader process, and delay SIGTERM by `GRACE_S`.

    A terminal or a scheduler sends the signal to every process. The run handles it after its step and then ends its
    loader processes. A run that is interrupted while it receives a batch closes the connection; the ConnectionError
    that follows in the loader process is not reported.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
    usual = sys.excepthook

    def ignore_hangups(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            usual(kind, error, trace)

    sys.excepthook = ignore_hangups


class MicroBatchJob(NamedTuple):
    """One micro-batch to make: view, and entries [b, 2] of image index and repeat."""

    view: int
    entries: Entries


class MicroBatches(Dataset[HostBatch | UserError]):
    """Makes micro-batches in a loader process. Without `replacements` an unreadable image is an error."""

    def __init__(self, source: Source, preparation: Preparation, replacements: Replacements | None) -> None:
        self._source = source
        self._preparation = preparation
        self._replacements = replacements

    def __getitem__(self, job: MicroBatchJob) -> HostBatch | UserError:
        broken: list[BrokenImage] = []
        try:
            batch = self._preparation(self._samples(job, broken), len(job.entries), job.view)
        except UserError as error:
            return error
        return batch._replace(broken=tuple(broken))

    def _samples(self, job: MicroBatchJob, broken: list[BrokenImage]) -> Iterator[Sample]:
        """The sample of each entry, or of its replacement, in order."""
        source = self._source
        for wanted, repeat in job.entries.tolist():
            index, image = self._readable(wanted, (job.view, repeat), broken)
            yield Sample(image, source.key(index), repeat, source.label(index))

    def _readable(self, wanted: int, place: tuple[int, int], broken: list[BrokenImage]) -> tuple[int, Image]:
        """Index and image of the wanted image, or of its first readable replacement.

        Raises: DataError if none can be read, or if replacing is off.
        """
        try:
            return wanted, load_image(self._source, wanted)
        except UnreadableImageError as error:
            if self._replacements is None:
                raise
            broken.append(broken_image("train", error))
            last = error
        for index in self._replacements.candidates(wanted, self._source.key(wanted), place):
            try:
                return index, load_image(self._source, index)
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
                f"a step has {self.order.window} samples, too few for {world} processes, which need at least two "
                f"each; use fewer processes or raise training.batch_size to {2 * world} or more"
            )

    def counts(self, step: int) -> tuple[int, int]:
        """Samples and labelled samples of a window over all ranks."""
        return self.order.window, int(self.order.labelled_per_step[step % self.order.steps_per_epoch])

    def windows(self, start: int, end: int) -> Generator[tuple[HostBatch, ...]]:
        """The micro-batches of each of the steps `start` to `end - 1`, from one loader across all epochs."""
        positions = rank_positions(self.order.window, self.layout.rank, self.layout.world)
        slices = self.layout.micro_batches(len(positions))
        replacements = Replacements(self.order.labelled, self.preparation.seed) if self.replaces else None
        dataset = MicroBatches(self.source, self.preparation, replacements)
        jobs = (
            MicroBatchJob(view, window[positions[part]])
            for view, window in self._window_entries(start, end)
            for part in slices
        )
        with closing(host_batches(dataset, jobs, workers=self.layout.workers, pin=self.layout.pin)) as batches:
            for _ in range(start, end):
                yield tuple(next(batches) for _ in slices)

    def _window_entries(self, start: int, end: int) -> Iterator[tuple[int, Entries]]:
        """View and entries [window, 2] of each window. One sequence, so that the loader prefetches across epochs."""
        steps = self.order.steps_per_epoch
        for epoch in range(start // steps, -(-end // steps)):
            windows = self.order.epoch(epoch)
            for step in range(max(start, epoch * steps), min(end, (epoch + 1) * steps)):
                yield view_of(epoch, self.views), windows[step - epoch * steps]


def _identity(batch: Any) -> Any:
    return batch
