"""The study of a search: Optuna's record of trials in `study.db`, and how a stopped search continues it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit.errors import RunDirectoryError
from distillkit.messages.dotted_keys import by_dotted_key
from distillkit.messages.text import one_line, shortened
from distillkit.plugin.extras import require
from distillkit.recipe.schema import Recipe
from distillkit.running.resumed_settings import fixed_settings
from distillkit.storage.atomic import write_bytes
from distillkit.storage.links import require_own
from distillkit.storage.untrusted import require_plain
from distillkit.sweeping.grid import ArmSettings
from distillkit.sweeping.halving import first_stop
from distillkit.sweeping.search_space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

NAME = "distillkit"
SETTINGS, EPOCH, ERROR, FACTS = "settings", "epoch", "error", "facts"
"""Attributes of a trial, and of the study: what they hold is JSON."""
SEEDS_PER_TRIAL = 1000
"""Distance of the sampler's seeds of two trials; a search has fewer keys."""


@dataclass(frozen=True)
class SearchSettings:
    """How a search chooses trials; `first_rung` is the epoch of the first comparison, `last_epoch` ends a run."""

    seed: int
    keep: int
    first_rung: int
    last_epoch: int


@dataclass(frozen=True)
class TrialRow:
    """A trial: its number, what it sets, its state, its figure in percent, the epoch of a pruned one, its error."""

    number: int
    settings: ArmSettings
    state: Literal["running", "done", "pruned", "failed"]
    value: float | None = None
    epoch: int | None = None
    error: str = ""


class SearchStudy:
    """Trials by number. `ask` makes the next one; the sampler sees all that have ended.

    The suggestion for a key of trial n depends on the seed, n, the key's place and the trials that ended before, and on
    nothing in this process. So a search that is continued asks as one that was never stopped.
    """

    def __init__(self, file: Path, space: Space, settings: SearchSettings, *, parallel: bool = False) -> None:
        require("optuna", what="a search")
        self._space, self._settings, self._parallel = space, settings, parallel
        self._study = _opened(file)

    def claim(self, recipe: Recipe, space: Mapping[str, str]) -> None:
        """Record what the study is about, or check that it is the same.

        Raises: RunDirectoryError for a study of another recipe, space or settings.
        """
        facts = {"recipe": recipe.model_dump(mode="json"), "search": dict(space), **asdict(self._settings)}
        known = self._study.user_attrs.get(FACTS)
        if known is None:
            self._study.set_user_attr(FACTS, facts)
            return
        before, now = by_dotted_key(known), by_dotted_key(facts)
        differing = {key: (before[key], now.get(key)) for key in before if before[key] != now.get(key)}
        changed = {key.removeprefix("recipe."): pair for key, pair in differing.items() if key.startswith("recipe.")}
        fixed = [key for key in fixed_settings(changed, recipe) if not key.startswith("about.")]
        fixed += sorted(key for key in {**differing, **_added(before, now)} if not key.startswith("recipe."))
        if fixed:
            raise RunDirectoryError(
                f"the study in this folder is of another recipe or search (different: {', '.join(fixed)}); give the "
                "same options, or another --out"
            )

    def rows(self) -> list[TrialRow]:
        """All trials, by number."""
        return [_row(trial) for trial in self._trials()]

    def ask(self) -> TrialRow:
        """The next trial."""
        return self._completed(self._study.ask())

    def running(self) -> list[TrialRow]:
        """The trials without an end: those of an earlier process that was stopped, and those of this one."""
        found = [trial for trial in self._trials() if trial.state.name == "RUNNING"]
        return [self._completed(self._again(trial)) for trial in found]

    def report(self, number: int, figures: Mapping[int, float]) -> int | None:
        """Record figures by epoch, in order; larger is better. Returns the epoch at which the trial is pruned, if any.

        Figures after that epoch are not recorded.
        """
        trial = self._trials()[number]
        earlier = [each.intermediate_values for each in self._trials()[:number]]
        known = dict(trial.intermediate_values)
        again = self._again(trial)
        for epoch in sorted(figures):
            if epoch not in known:
                again.report(figures[epoch], epoch)
                known[epoch] = figures[epoch]
            stop = first_stop(
                known,
                earlier,
                first=self._settings.first_rung,
                keep=self._settings.keep,
                last=self._settings.last_epoch,
            )
            if stop is not None:
                return stop
        return None

    def tell_done(self, number: int, value: float) -> None:
        """End a trial with its figure."""
        self._study.tell(number, value)

    def tell_pruned(self, number: int, epoch: int) -> None:
        """End a trial that was pruned after an epoch."""
        from optuna.trial import TrialState

        self._again(self._trials()[number]).set_user_attr(EPOCH, epoch)
        self._study.tell(number, state=TrialState.PRUNED)

    def tell_failed(self, number: int, error: str) -> None:
        """End a trial whose run failed; the sampler leaves it out."""
        from optuna.trial import TrialState

        self._again(self._trials()[number]).set_user_attr(ERROR, shortened(error, 500))
        self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> TrialRow | None:
        """The trial with the largest figure of those that ran to the end; the first one of several."""
        done = [row for row in self.rows() if row.state == "done" and row.value is not None]
        return max(done, key=lambda row: (row.value, -row.number), default=None)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _again(self, trial: FrozenTrial) -> Trial:
        from optuna import Trial

        return Trial(self._study, trial._trial_id)  # noqa: SLF001 - Optuna has no other way to continue a trial

    def _completed(self, trial: Trial) -> TrialRow:
        """Suggest the values that the trial lacks: the process may have been killed between two of them."""
        from optuna.samplers import TPESampler

        settings = {}
        for place, (key, domain) in enumerate(self._space.items()):
            # A sampler for each value: its state would depend on what this process has asked so far.
            seed = self._settings.seed * 2**20 + trial.number * SEEDS_PER_TRIAL + place
            self._study.sampler = TPESampler(
                seed=seed % 2**32, multivariate=False, group=False, constant_liar=self._parallel
            )
            settings[key] = domain.suggest(trial, key)
        if trial.user_attrs.get(SETTINGS) != settings:
            trial.set_user_attr(SETTINGS, settings)
        return TrialRow(trial.number, settings, "running")


def _opened(file: Path) -> Study:
    """The study in a file, which is made if it is missing. Raises: RunDirectoryError."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        require_own(file)
        if not file.exists() or file.stat().st_size == 0:
            write_bytes(file, _new_study())
        require_plain(file)
        return optuna.load_study(storage=_storage(sqlite3.connect(file, check_same_thread=False)), study_name=NAME)
    except Exception as error:  # whatever a damaged file makes of the database
        why = shortened(one_line(error))
        raise RunDirectoryError(
            f"{file} is no study that Optuna {optuna.__version__} reads ({why}); restore it, or give another --out"
        ) from error


def _new_study() -> bytes:
    """A database file with a study without trials.

    Optuna makes its tables and the study in several transactions. A file that it makes itself is of no use if the
    process is killed between two of them.
    """
    import optuna

    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as database:
        optuna.create_study(storage=_storage(database), study_name=NAME, direction="maximize")
        return database.serialize()


def _storage(database: sqlite3.Connection) -> RDBStorage:
    """Optuna's storage on an open database, and not by a URL, in which a name with a question mark would be cut."""
    from optuna.storages import RDBStorage

    return RDBStorage("sqlite://", engine_kwargs={"creator": lambda: database})


def _row(trial: FrozenTrial) -> TrialRow:
    settings = dict(trial.user_attrs.get(SETTINGS, {}))
    match trial.state.name:
        case "COMPLETE":
            return TrialRow(trial.number, settings, "done", trial.values[0] if trial.values else None)
        case "PRUNED":
            epoch = trial.user_attrs.get(EPOCH)
            value = trial.intermediate_values.get(epoch) if isinstance(epoch, int) else None
            return TrialRow(trial.number, settings, "pruned", value, epoch)
        case "FAIL":
            return TrialRow(trial.number, settings, "failed", error=str(trial.user_attrs.get(ERROR, "")))
        case _:
            return TrialRow(trial.number, settings, "running")


def _added(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a search that the study does not have. A key that a recipe did not know then has its default."""
    return {key: value for key, value in now.items() if key not in before and not key.startswith("recipe.")}
