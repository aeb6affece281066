"""Check a data set before a run: `distillkit data check`.

Every image is read with `load_image`, as in a run. The worker processes are a pool and not torch's DataLoader, so that
checking a folder does not import torch: it starts at once and needs no extra.
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
from distillkit.data.resolve_source import SourceOpener, without_recipe_key
from distillkit.data.selection import Selection
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.suspicious_classes import (
    class_warnings,
    fewer_than_a_batch,
    left_out_files,
    unlabelled_next_to_classes,
    unread_folders,
)
from distillkit.errors import DataError, UnreadableImageError
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Data

CHUNK = 16
"""Images per job of a worker process."""
CHUNKS_AHEAD = 4
"""Submitted jobs per worker process, so that none idles."""

CheckJob: TypeAlias = tuple[str, range]
"""A split, and the indices of the images to read."""


@dataclass(frozen=True)
class CheckReport:
    """The result of a check. `images` counts the images of each split; `broken` is in the order of the images.

    `wrong` lists what a run would reject and what is likely a mistake, `notes` what may be intended.
    """

    name: str
    images: Mapping[str, int]
    classes: int | None
    broken: tuple[BrokenImage, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.broken and not self.wrong

    def kinds(self, split: str | None = None) -> dict[str, int]:
        """Number of broken images per kind of fault, the most frequent first."""
        return dict(Counter(image.kind for image in self.broken if split in (None, image.split)).most_common())

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for `--json`."""
        return {
            "data": self.name,
            "well": self.passed,
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
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> CheckReport:
    """Read every image of every split of `data.train`, and check its classes.

    `batch_size` is that of the planned run. `on_progress` gets the number of images read so far, and the total.
    Raises: DataError if there is nothing to read, a PluginError if the data set's plugin cannot be used.
    """
    name = data.train or "digits"
    wrong: list[str] = []
    sets = _open_sets(SourceOpener(data, plugins), name, wrong)
    classes = _count_agreed_classes(sets, wrong)
    kinds = unlabelled_next_to_classes, unread_folders, left_out_files
    notes = [note for source in sets.values() for find in kinds if (note := find(source))]
    for source in sets.values():
        wrong += class_warnings(source)
    few = fewer_than_a_batch(len(sets["train"]), batch_size)
    notes += [few] if few else []
    broken: list[BrokenImage] = []
    done, total = 0, sum(map(len, sets.values()))
    for read, found in _read_all(sets, workers, wrong):
        done += read
        broken += found
        on_progress(done, total)
    images = {split: len(source) for split, source in sets.items()}
    return CheckReport(name, images, classes, tuple(broken), tuple(wrong), tuple(notes))


def _open_sets(opener: SourceOpener, name: str, wrong: list[str]) -> dict[str, Source | Stream]:
    """Every split that exists. Errors of the validation and test splits are appended to `wrong`."""
    try:
        sets = {"train": opener.training("train", name)}
    except DataError as error:
        raise DataError(without_recipe_key(error)) from error
    measured: tuple[Literal["validation"], Literal["test"]] = ("validation", "test")
    for split in measured:
        try:
            opened = opener.bundled(split, name)
        except DataError as error:
            wrong.append(f"{split}: {without_recipe_key(error)}")
        else:
            if opened is not None:
                sets[split] = opened
    return sets


def _count_agreed_classes(sets: Mapping[str, Source | Stream], wrong: list[str]) -> int | None:
    """The number of classes, None if the splits disagree; errors are appended to `wrong`."""
    try:
        names = agreed_names(sets)
        parts = [(source.name, labelled_part(source, names)) for source in sets.values() if not is_stream(source)]
        selections = [Selection(name, names, [part]) for name, part in parts]
        return count_classes(names, selections) if selections else len(names or ()) or None
    except DataError as error:
        wrong.append(str(error))
        return None


def _read_all(
    sets: Mapping[str, Source | Stream], workers: int, wrong: list[str]
) -> Iterator[tuple[int, list[BrokenImage]]]:
    """Read everything, in order: the number of images read since the last result, and the broken ones among them."""
    indexed = {split: source for split, source in sets.items() if not is_stream(source)}
    jobs: list[CheckJob] = [
        (split, range(start, min(start + CHUNK, len(source))))
        for split, source in indexed.items()
        for start in range(0, len(source), CHUNK)
    ]
    # One worker less than there are jobs: a single job is read in this process, without the cost of starting a pool.
    for (_, images), found in zip(jobs, _find_broken(indexed, jobs, min(workers, len(jobs) - 1)), strict=True):
        yield len(images), found
    for stream in sets.values():
        if is_stream(stream):
            try:
                for _ in read_stream(stream, 0):
                    yield 1, []
            except DataError as error:
                wrong.append(str(error))


def _find_broken(sets: Mapping[str, Source], jobs: list[CheckJob], workers: int) -> Iterator[list[BrokenImage]]:
    """The broken images of each job, in order."""
    if workers < 1:
        yield from (_broken_images(sets, job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(sets,))
    remaining = iter(jobs)
    try:
        pending = deque(pool.submit(_read_job, job) for job in islice(remaining, CHUNKS_AHEAD * workers))
        # Results in the order of submission, so that `broken` is the same for any number of workers.
        while pending:
            yield pending.popleft().result()
            pending += (pool.submit(_read_job, job) for job in islice(remaining, 1))
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed, probably out of memory; check with --workers 0") from error
    finally:
        # Also when the caller stops iterating, as on Ctrl-C: no worker outlives the check.
        pool.shutdown(wait=True, cancel_futures=True)


def _broken_images(sets: Mapping[str, Source], job: CheckJob) -> list[BrokenImage]:
    split, images = job
    found: list[BrokenImage] = []
    for index in images:
        try:
            load_image(sets[split], index)
        except UnreadableImageError as error:
            found.append(broken_image(split, error))
    return found


_worker_sets: dict[str, Source] = {}
"""The splits, in a worker process: passed once when it starts, not pickled with every job."""


def _start_worker(sets: Mapping[str, Source]) -> None:
    """Initialise a worker process: ignore Ctrl-C, which the command handles, and exit when the command does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_sets.update(sets)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # sys.exit would end only this thread


def _read_job(job: CheckJob) -> list[BrokenImage]:
    return _broken_images(_worker_sets, job)
