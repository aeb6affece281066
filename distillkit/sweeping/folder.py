"""The folder of a sweep: one run directory per arm, their logs, and the file that says what the folder is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from distillkit.errors import RunDirectoryError
from distillkit.messages.validation import first_problem
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit.storage.atomic import delete_temporary_files, write_json
from distillkit.storage.atomic_directory import LOST_AND_FOUND
from distillkit.storage.links import own_folder, require_own
from distillkit.storage.lock import LockedError, acquire
from distillkit.storage.places import is_probe, reason, require_writable
from distillkit.storage.untrusted import read_json
from distillkit.sweeping.grid import SweepArm

FILE, LOGS, LOCK = "sweep.json", "logs", ".lock"
SweepKind = Literal["grid", "search"]
StateOnDisk = Literal["new", "started", "done"]


class WrittenSweep(BaseModel, strict=True, extra="forbid"):
    """The content of sweep.json: how the arms were chosen, and what each of them sets."""

    kind: SweepKind
    arms: dict[str, dict[str, str]]


class SweepFolder:
    """The files of a sweep; nothing that it did not write is changed.

    sweep.json     how the arms were chosen, and the keys that each of them sets
    <arm>/         the run directory of an arm
    logs/          what the process of each arm printed, one file per arm
    study.db       the study of a search
    comparison.*   the comparison of the finished arms of a grid
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / FILE
        self.study = path / "study.db"

    def check(self, kind: SweepKind, arms: Collection[str] = ()) -> None:
        """Refuse a folder that is something else than a sweep of this kind, or cannot be written.

        Without sweep.json it may hold run directories with the names of `arms`, which other machines may have trained.
        Raises: RunDirectoryError.
        """
        try:
            self._check(kind, arms)
            require_writable(self.path)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write to {self.path} ({reason(self.path, error)}); give another --out"
            ) from None

    def _check(self, kind: SweepKind, arms: Collection[str]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file; give another --out")
        if not self.path.is_dir():
            return
        if self.file.is_file():
            written = self._read()
            if written.kind != kind:
                raise RunDirectoryError(
                    f"{self.path} holds a {written.kind}, and this sweep is a {kind}; give another --out"
                )
        elif any(path.name not in arms and not self._is_hidden(path.name) for path in self.path.iterdir()):
            what = "a run directory" if (self.path / "recipe.toml").is_file() else "not empty and no sweep"
            raise RunDirectoryError(f"{self.path} is {what} (it has no {FILE}); give another --out")

    def _read(self) -> WrittenSweep:
        try:
            return WrittenSweep.model_validate(read_json(require_own(self.file)))
        except ValidationError as error:
            why = first_problem(error)
        except OSError as error:
            why = error.strerror or type(error).__name__
        except ValueError as error:
            why = str(error)
        raise RunDirectoryError(f"{self.file} is damaged ({why}); restore it, or give another --out")

    @staticmethod
    def _is_hidden(name: str) -> bool:
        temporary = name.startswith(f".{FILE}.") and name.endswith(".tmp")
        return temporary or is_probe(name) or name in {LOCK, LOST_AND_FOUND}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and lock it for this sweep.

        Raises: RunDirectoryError where another process sweeps there.
        """
        own_folder(self.path)
        try:
            lock = acquire(self.path / LOCK)
        except LockedError as error:
            raise RunDirectoryError(
                f"{error.holder} already sweeps in {self.path}; wait until it ends, or give another --out"
            ) from None
        with lock:
            delete_temporary_files(self.path)
            yield

    def write(self, kind: SweepKind, arms: Sequence[SweepArm]) -> None:
        """Write sweep.json."""
        write_json(self.file, {"kind": kind, "arms": {arm.name: dict(arm.settings) for arm in arms}})

    def directory(self, arm: str) -> Path:
        return self.path / arm

    def log(self, arm: str) -> Path:
        """The log of an arm; makes its folder."""
        return own_folder(self.path / LOGS) / f"{arm}.log"

    def state(self, arm: str, recipe: Recipe) -> StateOnDisk:
        """Whether an arm is done, started or new.

        Raises: RunDirectoryError where its directory has another run or is something else.
        """
        run = RunDirectory(self.directory(arm))
        if not run.recipe.is_file():
            run.check_free()
            return "new"
        run.changed_settings(recipe)
        return "done" if run.result.is_file() else "started"


def states_of(folder: SweepFolder, recipes: Mapping[str, Recipe]) -> dict[str, StateOnDisk]:
    """The state of every arm. Raises: as `SweepFolder.state`."""
    return {arm: folder.state(arm, recipe) for arm, recipe in recipes.items()}
