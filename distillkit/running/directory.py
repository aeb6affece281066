"""The run directory: its files, its lock, and reading its results back."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, NonNegativeInt

from distillkit.compute.distributed import Processes
from distillkit.errors import RunDirectoryError
from distillkit.recipe.files import dump, keys_added_later, load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.storage.atomic import delete_temporary_files, write_json, write_text
from distillkit.storage.atomic_directory import LOST_AND_FOUND
from distillkit.storage.lock import LockedError, acquire
from distillkit.storage.places import is_probe, reason, require_writable
from distillkit.storage.untrusted import read_json

PACKAGES = ("distillkit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pluggy", "pydantic")
RESUME_REMEDY = "make it writable, or copy the run elsewhere"
"""Remedy for the directory of a run that continues."""


class WrittenResult(BaseModel, strict=True):
    """The part of result.json that is read back."""

    figures: dict[str, float]


class WrittenStudent(BaseModel, strict=True):
    """The part of the student in plan.json that is read back."""

    answers_with: Literal["fused", "class", "distill"]


class WrittenTeacher(BaseModel, strict=True):
    """The part of a teacher in plan.json that is read back."""

    name: str
    architecture: str
    licence: str | None


class WrittenPlan(BaseModel, strict=True):
    """The part of plan.json that is read back."""

    notes: list[str]
    classes: NonNegativeInt | None
    class_names: list[str] | None
    student: WrittenStudent
    teachers: list[WrittenTeacher]


class RunDirectory:
    """The files of a run; nothing is overwritten silently.

    recipe.toml           the resolved recipe
    plan.json             the plan of the run
    environment.json      versions and device
    metrics.jsonl         one line per log interval and epoch
    checkpoints/          the latest checkpoints, for --resume
    student.safetensors   the student after the last step, with student.json
    best/                 the student with the best validation top-1
    ema/                  the EMA of the student, with `training.ema`
    incidents.json        unreadable images and skipped steps, if any
    incidents/            the step at which a run gave up, for `distillkit replay`
    report.md             the report and its plots
    evaluations.jsonl     one line per `distillkit evaluate`
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.plan = path / "plan.json"
        self.environment = path / "environment.json"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.ema = path / "ema"
        self.result = path / "result.json"
        self.incidents = path / "incidents.json"
        self.saved_steps = path / "incidents"
        self.lock = path / ".lock"

    def check_free(self) -> None:
        """Raise RunDirectoryError where the directory exists and is not empty, or is a file."""
        try:
            self._check_free()
        except OSError as error:  # for example a name that is too long
            raise self._not_writable(error, "give another --out") from None

    def _check_free(self) -> None:
        # The lock and the recipe are the first files: a process killed while writing it leaves only temporary ones.
        if self.path.is_dir() and any(not self._is_hidden(path.name) for path in self.path.iterdir()):
            unfinished = self.recipe.is_file() and not self.result.is_file()
            remedy = f"continue it with --resume {self.path}" if unfinished else "delete it"
            raise RunDirectoryError(f"{self.path} exists and is not empty; {remedy} or give another --out")
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file; give another --out")

    def _is_hidden(self, name: str) -> bool:
        temporary = name.startswith(f".{self.recipe.name}.") and name.endswith(".tmp")
        return temporary or is_probe(name) or name in {self.lock.name, LOST_AND_FOUND}

    def check_writable(self, remedy: str = "give another --out") -> None:
        """Raise RunDirectoryError where the directory cannot be made or written to. Leaves nothing behind."""
        try:
            require_writable(self.path)
        except OSError as error:
            raise self._not_writable(error, remedy) from None

    def _not_writable(self, error: OSError, remedy: str) -> RunDirectoryError:
        return RunDirectoryError(f"cannot write to {self.path} ({reason(self.path, error)}); {remedy}")

    def create(self, recipe: Recipe, plan: dict[str, Any], device: torch.device) -> None:
        """Create the directory and write recipe, plan and environment."""
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error, "give another --out") from None
        # Locked, so that of two runs started at once the second one finds the recipe of the first.
        with self.locked():
            self.check_free()
            # First: with the recipe alone the run can be resumed.
            write_text(self.recipe, dump(recipe))
        self.describe(plan, device)

    def require_exists(self) -> None:
        """Raise FileNotFoundError where the directory was deleted during the run."""
        # Without this check, writing a checkpoint would create the directory again, without its other files.
        self.recipe.stat()

    def describe(self, plan: dict[str, Any], device: torch.device) -> None:
        """Write plan and environment; also when a run restarts without a checkpoint."""
        write_json(self.plan, plan)
        write_json(self.environment, environment(device))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for training; the system releases the lock when the process ends.

        Raises: RunDirectoryError where another process has the lock.
        """
        try:
            lock = acquire(self.lock)
        except LockedError as error:
            raise RunDirectoryError(
                f"{error.holder} is already training in {self.path}; wait until it ends, or give another --out"
            ) from None
        except OSError as error:
            raise self._not_writable(error, RESUME_REMEDY) from None
        with lock:
            delete_temporary_files(self.path)  # of killed processes: no other process writes here now
            yield
        if self.result.is_file():  # the run is finished
            self.lock.unlink(missing_ok=True)

    def read_recipe(self) -> Recipe:
        """The resolved recipe of the run.

        Raises: RunDirectoryError where this is not a run directory.
        """
        if not self.path.exists():
            raise RunDirectoryError(f"there is no run directory '{self.path}'; check the path")
        if not self.recipe.is_file():
            raise RunDirectoryError(f"'{self.path}' is not a run directory: it has no recipe.toml; check the path")
        return load_recipe(str(self.recipe))

    def require_recipe(self, recipe: Recipe) -> None:
        """Check that the run in this directory was started with this recipe.

        Raises: RunDirectoryError naming the keys that differ.
        """
        started, given = _by_dotted_key(self.read_recipe().model_dump()), _by_dotted_key(recipe.model_dump())
        # A run of an earlier version keeps the meaning of its recipe; the options have no say in keys it did not know.
        compared = (started.keys() | given.keys()) - keys_added_later(self.recipe)
        differing = sorted(key for key in compared if started.get(key) != given.get(key))
        if differing:
            raise RunDirectoryError(
                f"{self.path} was started with another recipe (different: {', '.join(differing)}); give the same "
                "options, or another --out"
            )

    def read_result(self) -> dict[str, Any]:
        """The content of result.json: the figures of a finished run.

        Raises: RunDirectoryError where the file is missing or damaged.
        """
        return self._read(self.result, WrittenResult)

    def read_plan(self) -> dict[str, Any]:
        """The content of plan.json: the plan at the start of the run.

        Raises: RunDirectoryError where the file is missing or damaged.
        """
        return self._read(self.plan, WrittenPlan)

    def _read(self, file: Path, written: type[BaseModel]) -> dict[str, Any]:
        try:
            content: dict[str, Any] = read_json(file)
            written.model_validate(content)
        except PermissionError as error:
            raise RunDirectoryError(f"{file} cannot be read ({error.strerror}); change its permissions") from error
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{file} is missing or damaged; restore it or run the training again") from error
        return content


def check_same_start(processes: Processes, state: str, path: Path) -> None:
    """Check that all processes find the run in the same state, "new" or "started".

    Raises: RunDirectoryError where they differ, as on machines that do not share a disk.
    """
    states = processes.gather(state)
    if len(set(states)) > 1:
        raise RunDirectoryError(
            f"process {states.index('started')} of {processes.world} finds a run in {path}, process "
            f"{states.index('new')} does not; give --out on a disk that all machines share, and the same options on "
            "each"
        )


def _by_dotted_key(tables: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key."""
    if not isinstance(tables, dict):
        return {prefix: tables}
    return {
        key: value
        for name, inner in tables.items()
        for key, value in _by_dotted_key(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and threads for environment.json; no user name, host name or path."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "packages": versions,
    }
