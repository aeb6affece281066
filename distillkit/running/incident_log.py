"""Incident log of a run: unreadable images and skipped steps, in incidents.json and as notes for trackers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NoReturn

from distillkit.contracts.incidents import BrokenImage, Incidents, notes_on_broken
from distillkit.data.batches import Window
from distillkit.data.lost_classes import lost_class_note, lost_classes
from distillkit.data.splits import DataSets
from distillkit.errors import DataError, SkippedStepsError
from distillkit.messages.text import command
from distillkit.running.directory import RunDirectory
from distillkit.running.saved_step import save_step
from distillkit.running.session import TrainingSession
from distillkit.storage.atomic import write_json
from distillkit.training.skipped_steps import Skipped


class IncidentLog:
    """Adds to `incidents`; the first process writes incidents.json and calls `note` with a step and a sentence.

    With several processes, each calls every method at the same points of the run.
    """

    def __init__(
        self,
        session: TrainingSession,
        directory: RunDirectory,
        incidents: Incidents,
        *,
        note: Callable[[int, str], None],
    ) -> None:
        self._session = session
        self._directory = directory
        self._incidents = incidents
        self._note = note

    def collect_broken(self, step: int) -> None:
        """Add the unreadable images of all processes since the last call; `step` steps are done.

        Raises: DataError, in all processes, where more images are unreadable than `data.broken` allows.
        """
        session = self._session
        gathered = session.processes.gather(json.dumps(session.broken))
        session.broken.clear()
        new = self._incidents.add_broken(BrokenImage(*image) for images in gathered for image in json.loads(images))
        if not new:
            return
        self._write(step, notes_on_broken(new))
        check_broken(self._incidents, session.plan.datasets, session.plan.recipe.data.broken)

    def find_lost_classes(self, step: int) -> None:
        """At the end of a run: record the classes of which no image could be read, with a note per split."""
        data = self._session.plan.datasets
        for split, source in (("train", data.train), ("validation", data.validation), ("test", data.test)):
            broken = {image.key for image in self._incidents.broken if image.split == split}
            lost = lost_classes(source, broken, try_others=True)  # an epoch leaves out images that fill no step
            if lost:
                self._incidents.lost_classes[split] = lost
                self._note(step, lost_class_note(split, lost))

    def add_skipped(self, skipped: Skipped) -> None:
        """Add a skipped step, with a note for the first in a row."""
        earlier = self._incidents.skipped
        # A scale search does not count as "in a row", so its first step is found from the step before.
        is_first = skipped.in_a_row == 1 or (skipped.is_scale_search and earlier[-1:] != [skipped.step - 1])
        earlier.append(skipped.step)
        self._write(skipped.step, [skipped.note] if is_first else [])

    def give_up(self, window: Window, skipped: Skipped) -> NoReturn:
        """Save the current step for `distillkit replay`, and end the run.

        Raises: SkippedStepsError, in all processes.
        """
        many = skipped.in_a_row > 1
        steps = f"{skipped.in_a_row} steps in a row were skipped, up to step" if many else "skipped step"
        problem = save_step(self._directory.saved_steps, self._session, window, skipped)
        why = (
            f"the step could not be saved ({problem})"
            if problem
            else f"to see why: {command('distillkit', 'replay', self._directory.path)}"
        )
        raise SkippedStepsError(
            f"{steps} {skipped.step:,}: {skipped.reason}; start a new run with a lower optimizer.lr, with "
            f"training.clip, or with training.precision=bf16 or fp32; {why}"
        )

    def _write(self, step: int, sentences: Sequence[str]) -> None:
        if not self._session.processes.is_first:
            return
        write_json(self._directory.incidents, self._incidents.as_dict())
        for sentence in sentences:
            self._note(step, sentence)


def check_broken(incidents: Incidents, datasets: DataSets, share: float) -> None:
    """Check that at most `share` of the images of each split are unreadable.

    Raises: DataError with the counts by kind of fault.
    """
    sizes = {"train": datasets.train, "validation": datasets.validation, "test": datasets.test}
    for split, kinds in incidents.counts().items():
        images, broken = len(sizes[split] or ()), sum(kinds.values())
        if broken > share * images:
            counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
            first = next(image for image in incidents.broken if image.split == split)
            raise DataError(
                f"{broken:,} of {images:,} {split} images cannot be read ({counts}), more than "
                f"data.broken = {share:g} allows; the first is '{first.key}': {first.reason}; list them all with "
                "`distillkit data check`, then repair or remove them, or raise data.broken"
            )
