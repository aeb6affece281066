"""Enters what goes wrong in a run without ending it into the run's ledger, and tells those who follow the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NoReturn

from distillkit.contracts.incidents import BrokenImage, Incidents, told
from distillkit.contracts.run import RunInfo
from distillkit.data.batches import Window
from distillkit.data.splits import DataSets
from distillkit.errors import DataError, TrainingError
from distillkit.messages.text import counted
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.directory import RunDirectory
from distillkit.running.saved_step import save_step
from distillkit.running.session import TrainingSession
from distillkit.storage.atomic import write_json
from distillkit.training.skipped_steps import Skipped


class IncidentLog:
    """The ledger is `run.incidents`; the first process writes it to the run directory and speaks.

    Of several processes each calls every method, at the same points.
    """

    def __init__(
        self, session: TrainingSession, directory: RunDirectory, plugins: PluginRegistry, run: RunInfo
    ) -> None:
        self._session = session
        self._directory = directory
        self._plugins = plugins
        self._run = run

    def settle(self, step: int) -> None:
        """Enter the images that any process could not read since the last time; `step` is how many are done.

        Raises: DataError, in all processes, where more images are unreadable than `data.broken` allows.
        """
        session, ledger = self._session, self._run.incidents
        met = [image for said in session.processes.gather(_said(session.broken)) for image in _heard(said)]
        session.broken.clear()
        new = ledger.add_broken(met)
        if not new:
            return
        self._write(step, told(new))
        check_broken(ledger, session.plan.datasets, session.plan.recipe.data.broken)

    def skipped(self, skipped: Skipped) -> None:
        """Enter a skipped step, and tell of the first in a row."""
        ledger = self._run.incidents
        before = ledger.skipped[-1:]
        begins = skipped.in_a_row == 1 or (skipped.is_scale_search and before != [skipped.step - 1])
        ledger.skipped.append(skipped.step)
        self._write(skipped.step, [skipped.note] if begins else [])

    def give_up(self, window: Window, skipped: Skipped) -> NoReturn:
        """Save the step at hand, and end the run.

        Raises: TrainingError, in all processes.
        """
        many = skipped.in_a_row > 1
        steps = f"{skipped.in_a_row} steps in a row were skipped, up to step" if many else "skipped step"
        trouble = save_step(self._directory.saved_steps, self._session, window, skipped)
        why = (
            f"the step could not be saved ({trouble})"
            if trouble
            else f"to see why: distillkit replay {self._directory.path}"
        )
        raise TrainingError(
            f"{steps} {skipped.step:,}: {skipped.reason}; begin another run with a lower optimizer.lr, training.clip, "
            f"or training.precision=bf16 or fp32; {why}"
        )

    def _write(self, step: int, sentences: Sequence[str]) -> None:
        if not self._session.processes.is_first:
            return
        write_json(self._directory.incidents, self._run.incidents.as_dict())
        for sentence in sentences:
            self._plugins.noted(self._run, step, sentence)


def _said(images: Sequence[BrokenImage]) -> str:
    return json.dumps(images)


def _heard(said: str) -> list[BrokenImage]:
    return [BrokenImage(*image) for image in json.loads(said)]


def check_broken(incidents: Incidents, datasets: DataSets, share: float) -> None:
    """Refuse to go on where more than `share` of the images of a set cannot be read.

    Raises: DataError with the counts by kind.
    """
    sizes = {"train": datasets.train, "validation": datasets.validation, "test": datasets.test}
    for split, kinds in incidents.counts().items():
        images, broken = len(sizes[split] or ()), sum(kinds.values())
        if broken > share * images:
            counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
            first = next(image for image in incidents.broken if image.split == split)
            raise DataError(
                f"{counted(broken, 'image')} of the {images:,} of {split} cannot be read ({counts}), more than "
                f"data.broken = {share:g} allows; the first is '{first.key}': {first.reason}; look at them all with "
                "`distillkit data check`, and repair or remove them, or raise data.broken"
            )
