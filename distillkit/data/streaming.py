"""Training windows from a stream, which has no index: resuming is exact to the epoch, not to the step."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice

from torch.utils.data import IterableDataset, get_worker_info

from distillkit.compute.cpus import loader_processes
from distillkit.data.collate import HostBatch, Preparation, Sample
from distillkit.data.host_batches import host_batches
from distillkit.data.order import rank_positions, view_of
from distillkit.data.sources import Stream, read_stream
from distillkit.data.worker_loader import Layout
from distillkit.errors import DataError, UserError


@dataclass(frozen=True)
class StreamedWindows:
    """The windows of one rank, from its shards of a stream, which is read repeatedly.

    An epoch has the stream's length divided by the batch size as its number of steps. Reading starts at the beginning
    of the stream, with the pass of the first step's epoch. Each loader process makes complete windows from its shards.
    """

    stream: Stream
    batch_size: int
    steps_per_epoch: int
    preparation: Preparation
    layout: Layout
    views: int | None

    @property
    def facts(self) -> dict[str, float]:
        """Nothing: the number of loader processes is not measured, and a stream does not fit into memory."""
        return {}

    def counts(self, step: int) -> tuple[int, int]:  # noqa: ARG002 -- all steps are alike
        """Samples and labelled samples of a window over all ranks. Every image of a stream has a label."""
        return self.batch_size, self.batch_size

    def windows(self, start: int, end: int) -> Generator[tuple[HostBatch, ...]]:
        """The micro-batches of each of the steps `start` to `end - 1`."""
        dataset = StreamReader(self, first_pass=start // self.steps_per_epoch)
        # A loader process without a shard would have no images, which is an error.
        workers = min(loader_processes(self.layout.workers), max(1, self.stream.shards // self.layout.world))
        with closing(host_batches(dataset, None, workers=workers, pin=self.layout.pin)) as windows:
            yield from islice(windows, end - start)


class StreamReader(IterableDataset[tuple[HostBatch, ...] | UserError]):
    """Reads a stream endlessly and makes windows of it, in a loader process."""

    def __init__(self, windows: StreamedWindows, first_pass: int) -> None:
        self._windows = windows
        self._first_pass = first_pass

    def __iter__(self) -> Iterator[tuple[HostBatch, ...] | UserError]:
        try:
            yield from self._read()
        except UserError as error:
            yield error

    def _read(self) -> Iterator[tuple[HostBatch, ...]]:
        layout = self._windows.layout
        size = len(rank_positions(self._windows.batch_size, layout.rank, layout.world))
        samples = self._samples()
        while True:
            window = list(islice(samples, size))
            view = view_of(window[0].repeat, self._windows.views)
            yield tuple(
                self._windows.preparation(window[part], len(window[part]), view) for part in layout.micro_batches(size)
            )

    def _samples(self) -> Iterator[Sample]:
        """The samples of one pass after the other. The key is the position in the stream, the repeat the pass."""
        # Every reader counts from 0, so its name makes the keys, and with them the augmentations, unique.
        info = get_worker_info()
        reader = f"{self._windows.layout.rank}/{info.id if info else 0}"
        for number in count(self._first_pass):
            position = -1
            for position, (image, label) in enumerate(read_stream(self._windows.stream, number)):
                yield Sample(image, f"{reader}/{position}", number, label)
            if position < 0:
                raise DataError(f"the stream '{self._windows.stream.name}' has no images; check its path")
