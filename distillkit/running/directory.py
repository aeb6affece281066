"""The run directory: its files, its lock, and what is read back from it."""

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
from distillkit.recipe.files import dump, load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.storage.atomic import write_json, write_text
from distillkit.storage.lock import LockedError, acquire
from distillkit.storage.untrusted import read_json

PACKAGES = ("distillkit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pluggy", "pydantic")


class WrittenResult(BaseModel, strict=True):
    """What is read of result.json."""

    figures: dict[str, float]


class WrittenStudent(BaseModel, strict=True):
    """What is read of the student in plan.json."""

    answers_with: Literal["fused", "class", "distill"]


class WrittenTeacher(BaseModel, strict=True):
    """What is read of a teacher in plan.json."""

    name: str
    architecture: str
    licence: str | None


class WrittenPlan(BaseModel, strict=True):
    """What is read of plan.json."""

    notes: list[str]
    classes: NonNegativeInt | None
    class_names: list[str] | None
    student: WrittenStudent
    teachers: list[WrittenTeacher]


class RunDirectory:
    """The files of a run; none is overwritten silently.

    recipe.toml           the resolved recipe
    plan.json             what was matched before the run
    environment.json      versions and device
    metrics.jsonl         one line per log interval and epoch
    checkpoints/          the latest checkpoints, for --resume
    student.safetensors   the student after the last step, with student.json
    best/                 the student that was best on the validation images
    ema/                  the moving average of the student, where the recipe asks for one
    incidents.json        images that could not be read and steps that were skipped, where there are any
    incidents/            the step at which a run gave up, for `distillkit replay`
    report.md             the report and its pictures
    evaluations.jsonl     one line for every `distillkit evaluate`
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
        """Raise RunDirectoryError where something is there already."""
        # A process that was killed while it wrote the recipe has left nothing else.
        if self.path.is_dir() and any(path.name != f".{self.recipe.name}.tmp" for path in self.path.iterdir()):
            unfinished = self.recipe.is_file() and not self.result.is_file()
            remedy = f"continue it with --resume {self.path}" if unfinished else "delete it"
            raise RunDirectoryError(f"{self.path} exists and is not empty; {remedy} or give another --out")
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file; give another --out")

    def create(self, recipe: Recipe, plan: dict[str, Any], device: torch.device) -> None:
        """Make the directory with what is known before the first step."""
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be made ({error.strerror}); give another --out") from None
        write_text(self.recipe, dump(recipe))
        self.describe(plan, device)

    def require_exists(self) -> None:
        """Raise FileNotFoundError where the directory was deleted meanwhile: it must not be made again, half empty."""
        self.recipe.stat()

    def describe(self, plan: dict[str, Any], device: torch.device) -> None:
        """Write the plan, the versions and the device; again where a run starts again without a checkpoint."""
        write_json(self.plan, plan)
        write_json(self.environment, environment(device))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from training in this directory; the system releases the lock when the process ends.

        Raises: RunDirectoryError where another one does.
        """
        try:
            lock = acquire(self.lock)
        except LockedError as error:
            raise RunDirectoryError(
                f"{self.path} is being trained by process {error.pid} already; wait for its end, or give another --out"
            ) from None
        with lock:
            yield
        if self.result.is_file():  # the run is finished
            self.lock.unlink(missing_ok=True)

    def read_recipe(self) -> Recipe:
        """The resolved recipe of a run that was started.

        Raises: RunDirectoryError where this is not a run directory.
        """
        if not self.recipe.is_file():
            raise RunDirectoryError(f"{self.path} is not a run directory (it has no recipe.toml); give one that is")
        return load_recipe(str(self.recipe))

    def require_recipe(self, recipe: Recipe) -> None:
        """Raise where the run in this directory was started with another recipe.

        Raises: RunDirectoryError naming the keys that differ.
        """
        mine, given = _keys(self.read_recipe().model_dump()), _keys(recipe.model_dump())
        differing = sorted(key for key in mine.keys() | given.keys() if mine.get(key) != given.get(key))
        if differing:
            raise RunDirectoryError(
                f"{self.path} was begun with another recipe (it differs in {', '.join(differing)}); give the same "
                "options again, or another --out"
            )

    def read_result(self) -> dict[str, Any]:
        """The figures of a finished run.

        Raises: RunDirectoryError where they are missing or damaged.
        """
        return self._read(self.result, WrittenResult)

    def read_plan(self) -> dict[str, Any]:
        """The plan as it was written when the run started.

        Raises: RunDirectoryError where it is missing or damaged.
        """
        return self._read(self.plan, WrittenPlan)

    def _read(self, file: Path, written: type[BaseModel]) -> dict[str, Any]:
        try:
            content: dict[str, Any] = read_json(file)
            written.model_validate(content)
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{file} is missing or torn; run the training again or restore it") from error
        return content


def check_same_start(processes: Processes, state: str, path: Path) -> None:
    """Raise where one process starts a run and another one continues it: machines that do not share a disk.

    Raises: RunDirectoryError.
    """
    states = processes.gather(state)
    if len(set(states)) > 1:
        raise RunDirectoryError(
            f"the run in {path} is begun for process {states.index('begun')} of {processes.world} and new for process "
            f"{states.index('new')}; give --out on a disk that all machines see, and the same options on each"
        )


def _keys(tables: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of nested tables by its dotted key."""
    if not isinstance(tables, dict):
        return {prefix: tables}
    return {
        key: value
        for name, inner in tables.items()
        for key, value in _keys(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and threads; nothing that names a person, a host or a path."""
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
