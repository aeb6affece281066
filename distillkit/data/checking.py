"""Find out what is wrong with a data set before a run does: `distillkit data check`.

Loads torch only where the data set does. Every image goes through `load_image`, as in a run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeAlias

from distillkit.contracts.incidents import BrokenImage
from distillkit.data.class_names import agreed_names, count_classes, labelled_part
from distillkit.data.image_faults import broken_image
from distillkit.data.resolve_source import SourceOpener
from distillkit.data.selection import Selection
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.suspicious_classes import (
    class_oddities,
    fewer_than_a_batch,
    unlabelled_beside_classes,
)
from distillkit.errors import DataError, UnreadableImageError
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Data

CHUNK = 16
"""Images that a process reads before it reports."""
AHEAD = 4
"""Chunks that wait for each process, so that none idles."""

CheckJob: TypeAlias = tuple[str, range]
"""Of which set, and which of its images."""


@dataclass(frozen=True)
class Checked:
    """What a check found. `images` are those of each set; `broken` is in the order of the images.

    `wrong` are sentences about what a run would refuse or what is likely a mistake, `notes` about what may be meant.
    """

    name: str
    images: Mapping[str, int]
    classes: int | None
    broken: tuple[BrokenImage, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        return not self.broken and not self.wrong

    def kinds(self, split: str | None = None) -> dict[str, int]:
        """How many images have which kind of fault, the most frequent first."""
        return dict(Counter(image.kind for image in self.broken if split in (None, image.split)).most_common())

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "data": self.name,
            "well": self.is_well,
            "images": dict(self.images),
            "classes": self.classes,
            "kinds": {split: self.kinds(split) for split in self.images},
            "broken": [image._asdict() for image in self.broken],
            "wrong": list(self.wrong),
            "notes": list(self.notes),
        }


def check(
    data: Data,
    plugins: PluginRegistry,
    *,
    batch_size: int,
    workers: int,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Checked:
    """Read every image of every set of `data.train`, and look at its classes.

    `batch_size` is that of the run that is to come. `told` hears how many images are read, and of how many.
    Raises: DataError where there is nothing to read, a PluginError where the data set's plugin cannot be used.
    """
    name = data.train or "digits"
    wrong: list[str] = []
    sets = _opened(SourceOpener(data, plugins), name, wrong)
    classes = _agreed(sets, wrong)
    notes = [said for source in sets.values() if (said := unlabelled_beside_classes(source))]
    for source in sets.values():
        wrong += class_oddities(source)
    few = fewer_than_a_batch(len(sets["train"]), batch_size)
    notes += [few] if few else []
    broken: list[BrokenImage] = []
    done, total = 0, sum(map(len, sets.values()))
    for read, found in _read(sets, workers, wrong):
        done += read
        broken += found
        told(done, total)
    images = {split: len(source) for split, source in sets.items()}
    return Checked(name, images, classes, tuple(broken), tuple(wrong), tuple(notes))


def _opened(opener: SourceOpener, name: str, wrong: list[str]) -> dict[str, Source | Stream]:
    """Every set that there is. What is wrong with one that is for measuring is said."""
    try:
        sets = {"train": opener.training("train", name)}
    except DataError as error:
        raise DataError(_own_words(error)) from error
    measured: tuple[Literal["validation"], Literal["test"]] = ("validation", "test")
    for split in measured:
        try:
            opened = opener.brought_along(split, name)
        except DataError as error:
            wrong.append(f"{split}: {_own_words(error)}")
        else:
            if opened is not None:
                sets[split] = opened
    return sets


def _own_words(error: DataError) -> str:
    """Without the recipe's key, of which nobody spoke."""
    return str(error).removeprefix("data.train: ")


def _agreed(sets: Mapping[str, Source | Stream], wrong: list[str]) -> int | None:
    """How many classes there are, where the sets agree on them."""
    try:
        names = agreed_names(sets)
        parts = [(source.name, labelled_part(source, names)) for source in sets.values() if not is_stream(source)]
        selections = [Selection(name, names, [part]) for name, part in parts]
        return count_classes(names, selections) if selections else len(names or ()) or None
    except DataError as error:
        wrong.append(str(error))
        return None


def _read(
    sets: Mapping[str, Source | Stream], workers: int, wrong: list[str]
) -> Iterator[tuple[int, list[BrokenImage]]]:
    """How many more images were read, and which of them cannot be, in order."""
    indexed = {split: source for split, source in sets.items() if not is_stream(source)}
    jobs: list[CheckJob] = [
        (split, range(start, min(start + CHUNK, len(source))))
        for split, source in indexed.items()
        for start in range(0, len(source), CHUNK)
    ]
    for (_, images), found in zip(jobs, _faults(indexed, jobs, min(workers, len(jobs) - 1)), strict=True):
        yield len(images), found
    for stream in sets.values():
        if is_stream(stream):
            try:
                for _ in read_stream(stream, 0):
                    yield 1, []
            except DataError as error:
                wrong.append(str(error))


def _faults(sets: Mapping[str, Source], jobs: list[CheckJob], workers: int) -> Iterator[list[BrokenImage]]:
    """The unreadable images of each job, in order."""
    if workers < 1:
        reader = Reader(sets)
        yield from map(reader, jobs)
        return
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(sets,))
    left = iter(jobs)
    try:
        waiting = deque(pool.submit(_read_job, job) for job in islice(left, AHEAD * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting += (pool.submit(_read_job, job) for job in islice(left, 1))
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads images was ended from outside, mostly for want of memory; check with --workers 0"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Reader:
    """Reads images as a run does."""

    sets: Mapping[str, Source]

    def __call__(self, job: CheckJob) -> list[BrokenImage]:
        """The unreadable images of a job."""
        split, images = job
        found: list[BrokenImage] = []
        for index in images:
            try:
                load_image(self.sets[split], index)
            except UnreadableImageError as error:
                found.append(broken_image(split, error))
        return found


_readers: list[Reader] = []
"""That of this process, where it is one of a pool."""


def _begin(sets: Mapping[str, Source]) -> None:
    """Make the reader of a process. Ctrl-C is for the command to answer; without the command the process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _readers[:] = [Reader(sets)]
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _read_job(job: CheckJob) -> list[BrokenImage]:
    return _readers[0](job)
