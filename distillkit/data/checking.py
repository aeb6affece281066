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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple, TypeAlias

from distillkit.compute.interpreters import safe_path
from distillkit.contracts.incidents import BrokenImage
from distillkit.data.class_names import agreed_names, count_classes, evaluation_class_notes, labelled_part
from distillkit.data.image_faults import broken_image, is_plain
from distillkit.data.lost_classes import lost_class_note, lost_classes
from distillkit.data.resolve_source import SourceOpener, without_recipe_key
from distillkit.data.selection import Selection
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.suspicious_classes import (
    class_warnings,
    fewer_than_a_batch,
    left_out_files,
    one_sided,
    unlabelled_next_to_classes,
    unread_folders,
)
from distillkit.errors import DataError, UnreadableImageError
from distillkit.messages.text import counted, visible
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.image_tables import Data

CHUNK = 16
"""Images per job of a worker process."""
CHUNKS_AHEAD = 4
"""Submitted jobs per worker process, so that none idles."""

CheckJob: TypeAlias = tuple[str, range]
"""A split, and the indices of the images to read."""


class CheckedImages(NamedTuple):
    """What reading some images showed: the broken ones, and the split and key of those of a single colour."""

    broken: list[BrokenImage]
    plain: list[tuple[str, str]]


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
    classes, class_notes = _agreed_classes(sets, wrong)
    kinds = unlabelled_next_to_classes, unread_folders, left_out_files, one_sided
    notes = [note for source in sets.values() for find in kinds if (note := find(source))]
    notes += class_notes
    for source in sets.values():
        wrong += class_warnings(source)
    few = fewer_than_a_batch(len(sets["train"]), batch_size)
    notes += [few] if few else []
    broken: list[BrokenImage] = []
    plain: list[tuple[str, str]] = []
    done, total = 0, sum(map(len, sets.values()))
    for read, found in _read_all(sets, workers, wrong):
        done += read
        broken += found.broken
        plain += found.plain
        on_progress(done, total)
    for split, source in sets.items():
        lost = lost_classes(source, {image.key for image in broken if image.split == split})
        wrong += [lost_class_note(split, lost)] if lost else []
        notes += _plain_note(source, [key for other, key in plain if other == split], data)
    notes += _deep_note(broken, data)
    images = {split: len(source) for split, source in sets.items()}
    return CheckReport(name, images, classes, tuple(broken), tuple(wrong), tuple(notes))


def _plain_note(source: Source | Stream, keys: Sequence[str], data: Data) -> Iterator[str]:
    if keys:
        have = "has" if len(keys) == 1 else "have"
        yield (
            f"{counted(len(keys), 'image')} of '{source.name}' {have} a single colour, such as '{keys[0]}'; if they "
            f"are drawn by transparency, try another data.background than {data.background} (--background)"
        )


def _deep_note(broken: Iterable[BrokenImage], data: Data) -> Iterator[str]:
    deep = sum(image.kind == "wrong-mode" and "'I" in image.reason for image in broken)
    if deep and data.grey16 == "refuse":
        yield (
            f"{counted(deep, 'unreadable image')} may be 16-bit grey: --grey16 scale reads it in 8 bits, as does a run "
            "with --set data.grey16=scale"
        )


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


def _agreed_classes(sets: Mapping[str, Source | Stream], wrong: list[str]) -> tuple[int | None, list[str]]:
    """The number of classes, and notes on those that the validation and test images lack.

    The number is None if the splits disagree; errors are appended to `wrong`.
    """
    try:
        names = agreed_names(sets)
        notes = [
            note
            for split, source in sets.items()
            if split != "train"
            for note in evaluation_class_notes(split, source, names)
        ]
        parts = [(source.name, labelled_part(source, names)) for source in sets.values() if not is_stream(source)]
        selections = [Selection(name, names, [part]) for name, part in parts]
        return (count_classes(names, selections) if selections else len(names or ()) or None), notes
    except DataError as error:
        wrong.append(str(error))
        return None, []


def _read_all(
    sets: Mapping[str, Source | Stream], workers: int, wrong: list[str]
) -> Iterator[tuple[int, CheckedImages]]:
    """Read everything, in order: the number of images read since the last result, and what they showed."""
    indexed = {split: source for split, source in sets.items() if not is_stream(source)}
    jobs: list[CheckJob] = [
        (split, range(start, min(start + CHUNK, len(source))))
        for split, source in indexed.items()
        for start in range(0, len(source), CHUNK)
    ]
    # One worker less than there are jobs: a single job is read in this process, without the cost of starting a pool.
    for (_, images), found in zip(jobs, _find(indexed, jobs, min(workers, len(jobs) - 1)), strict=True):
        yield len(images), found
    for stream in sets.values():
        if is_stream(stream):
            try:
                for _ in read_stream(stream, 0):
                    yield 1, CheckedImages([], [])
            except DataError as error:
                wrong.append(str(error))


def _find(sets: Mapping[str, Source], jobs: list[CheckJob], workers: int) -> Iterator[CheckedImages]:
    """The findings of each job, in order."""
    if workers < 1:
        yield from (_checked_images(sets, job) for job in jobs)
        return
    with safe_path():  # also for the resource tracker of the pool's queues
        pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(sets,))
    remaining = iter(jobs)
    try:
        pending = deque(_submit(pool, job) for job in islice(remaining, CHUNKS_AHEAD * workers))
        # Results in the order of submission, so that `broken` is the same for any number of workers.
        while pending:
            yield pending.popleft().result()
            pending += (_submit(pool, job) for job in islice(remaining, 1))
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed, probably out of memory; check with --workers 0") from error
    finally:
        # Also when the caller stops iterating, as on Ctrl-C: no worker outlives the check.
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, job: CheckJob) -> Future[CheckedImages]:
    with safe_path():  # the pool starts a worker process if all others are busy
        return pool.submit(_read_job, job)


def _checked_images(sets: Mapping[str, Source], job: CheckJob) -> CheckedImages:
    split, images = job
    found = CheckedImages([], [])
    for index in images:
        try:
            image = load_image(sets[split], index)
        except UnreadableImageError as error:
            found.broken.append(broken_image(split, error))
        else:
            if image.size != (1, 1) and is_plain(image):
                found.plain.append((split, visible(sets[split].key(index))))
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


def _read_job(job: CheckJob) -> CheckedImages:
    return _checked_images(_worker_sets, job)
