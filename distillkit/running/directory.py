"""The run directory: its files, its lock, and reading its results back."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, NonNegativeInt

from distillkit.contracts.teacher_form import FormText
from distillkit.errors import RunDirectoryError
from distillkit.messages.text import command, size_text
from distillkit.recipe.files import dump, keys_added_later, load_recipe, with_values
from distillkit.recipe.schema import Recipe, TeacherEntry
from distillkit.recipe.stored_paths import write_started_in
from distillkit.running.resumed_settings import Changed, as_entry, changed_settings, fixed_settings
from distillkit.running.run_times import start_facts
from distillkit.storage.atomic import delete_temporary_files, write_json, write_text
from distillkit.storage.atomic_directory import LOST_AND_FOUND
from distillkit.storage.links import LinkError, require_own
from distillkit.storage.lock import LockedError, acquire
from distillkit.storage.places import delete_probes, is_probe, reason, require_writable
from distillkit.storage.untrusted import read_json

# torch takes seconds to import, and most errors about a directory need none of it.
if TYPE_CHECKING:
    import torch

    from distillkit.compute.distributed import Processes

PACKAGES = ("distillkit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pluggy", "pydantic")
EVALUATIONS = "evaluations.jsonl"
RESUME_REMEDY = "make it writable, or copy the run elsewhere"
"""Remedy for the directory of a run that continues."""


class WrittenIncidents(BaseModel, strict=True):
    """The part of the incidents in result.json that is read back."""

    skipped_steps: NonNegativeInt = 0


class WrittenResult(BaseModel, strict=True):
    """The part of result.json that is read back."""

    figures: dict[str, float]
    steps: NonNegativeInt = 0
    incidents: WrittenIncidents = WrittenIncidents()


class WrittenStudent(BaseModel, strict=True):
    """The part of the student in plan.json that is read back."""

    answers_with: Literal["fused", "class", "distill"]


class WrittenTeacher(BaseModel, strict=True):
    """The part of a teacher in plan.json that is read back."""

    name: str
    architecture: str
    licence: str | None
    form: FormText = "plain"
    precision: Literal["fp32", "bf16", "fp16"] | None = None


class WrittenValues(BaseModel, strict=True):
    """The values of a setting that changed when a run was resumed."""

    before: Any
    now: Any


class WrittenChange(BaseModel, strict=True):
    """The settings that changed when a run was resumed after `step` steps, by dotted key."""

    step: NonNegativeInt
    changed: dict[str, WrittenValues]


class WrittenPlan(BaseModel, strict=True):
    """The part of plan.json that is read back."""

    notes: list[str]
    resumed: list[WrittenChange] = []
    classes: NonNegativeInt | None
    class_names: list[str] | None
    student: WrittenStudent
    teachers: list[WrittenTeacher]


class RunDirectory:
    """The files of a run; nothing is overwritten silently.

    recipe.toml           the resolved recipe
    started_in.json       the folder to which relative paths in recipe.toml belong
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
    report.html           the same as one page that needs no other file
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
            remedy = f"continue it with {command('--resume', self.path)}" if unfinished else "delete it"
            raise RunDirectoryError(f"{self.path} exists and is not empty; {remedy} or give another --out")
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file; give another --out")

    def _is_hidden(self, name: str) -> bool:
        temporary = name.startswith(f".{self.recipe.name}.") and name.endswith(".tmp")
        return temporary or is_probe(name) or name in {self.lock.name, LOST_AND_FOUND}

    def check_writable(self, remedy: str = "give another --out") -> None:
        """Raise RunDirectoryError where the directory cannot be made or written to. Leaves nothing behind."""
        self.check_links()
        try:
            require_writable(self.path)
        except OSError as error:
            raise self._not_writable(error, remedy) from None

    def check_space(self, needed: int) -> None:
        """Raise RunDirectoryError where the disk has fewer bytes left than the first checkpoint needs."""
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise RunDirectoryError(
                f"cannot write to {self.path} (a checkpoint needs at least {size_text(needed)}, and {size_text(free)} "
                "are free); free some space, or give another --out"
            )

    def check_links(self) -> None:
        """Raise RunDirectoryError where a link is in the place of a folder that a run writes to or deletes."""
        folders = [self.best, self.ema, self.checkpoints, self.saved_steps, self.path / "attention"]
        try:
            for folder in folders:
                require_own(folder)
            for folder in (self.checkpoints, self.saved_steps):
                for entry in folder.iterdir() if folder.is_dir() else ():
                    require_own(entry)
        except LinkError as error:
            raise RunDirectoryError(error.sentence()) from None

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
            write_started_in(self.path)
        self.describe(plan, device)

    def require_exists(self) -> None:
        """Raise FileNotFoundError where the directory was deleted during the run."""
        # Without this check, writing a checkpoint would create the directory again, without its other files.
        self.recipe.stat()

    def describe(self, plan: dict[str, Any], device: torch.device) -> None:
        """Write plan and environment; also when a run restarts without a checkpoint."""
        write_json(self.plan, plan)
        write_json(self.environment, environment(device))

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the plan again, once more of it is known."""
        write_json(self.plan, dict(plan))

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
            self.check_links()
            # Of killed processes: no other process writes here now.
            delete_temporary_files(self.path)
            delete_probes(self.path)
            yield
        if self.result.is_file():  # the run is finished
            self.lock.unlink(missing_ok=True)

    def read_recipe(self) -> Recipe:
        """The resolved recipe of the run, with the teacher sizes of its plan.

        Raises: RunDirectoryError where this is not a run directory.
        """
        recipe = self._stored_recipe()
        try:
            seen = {teacher.get("recipe_name"): teacher for teacher in self.read_plan()["teachers"]}
        except RunDirectoryError:
            return recipe
        teachers = tuple(_as_planned(teacher, seen.get(teacher.name, {})) for teacher in recipe.teachers)
        return recipe.model_copy(update={"teachers": teachers})

    def _stored_recipe(self) -> Recipe:
        """The recipe in recipe.toml.

        Raises: as `read_recipe`.
        """
        if not self.path.exists():
            raise RunDirectoryError(f"there is no run directory '{self.path}'; check the path")
        if not self.recipe.is_file():
            raise RunDirectoryError(f"'{self.path}' is not a run directory: it has no recipe.toml; check the path")
        return load_recipe(str(self.recipe))

    def read_unfinished_recipe(self) -> Recipe:
        """The resolved recipe of a run that can continue.

        Raises: RunDirectoryError where this is not a run directory, or the run is finished.
        """
        recipe = self.read_recipe()
        if self.result.is_file():
            raise RunDirectoryError(
                f"{self.path} is finished; evaluate or export it, or start a new run with more epochs"
            )
        return recipe

    def changed_settings(self, recipe: Recipe) -> Changed:
        """The settings with which `recipe`, from the command that started this run, would resume it differently.

        Raises: RunDirectoryError naming the keys that must not differ.
        """
        started = self._stored_recipe()
        # A run of an earlier version keeps the meaning of its recipe; the options have no say in keys it did not know.
        added = keys_added_later(self.recipe)
        changed = {
            key: values
            for key, values in changed_settings(started, recipe).items()
            if key not in added and not key.startswith("about.")
        }
        differing = fixed_settings(changed, started)
        if differing:
            raise RunDirectoryError(
                f"{self.path} was started with another recipe (different: {', '.join(differing)}); give the same "
                "options, or another --out"
            )
        return changed

    def record_changes(self, step: int, changed: Changed) -> None:
        """Write settings that changed on resume to plan.json, and to recipe.toml for the next resume."""
        plan = self.read_plan()
        plan["resumed"] = [*plan.get("resumed", []), as_entry(step, changed)]
        write_json(self.plan, plan)
        write_text(self.recipe, with_values(self.recipe, {key: now for key, (_, now) in changed.items()}))

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


def _as_planned(teacher: TeacherEntry, planned: Mapping[str, Any]) -> TeacherEntry:
    """A teacher of the recipe at the size of the plan: for earlier versions `auto` was often the student's size."""
    at_students_size = teacher.size == "auto" and planned.get("sees") != planned.get("image_size")
    return teacher.model_copy(update={"size": "student"}) if at_students_size else teacher


def environment(device: torch.device) -> dict[str, Any]:
    """Start, command, versions, device and threads for environment.json; no user name, host name or other path."""
    import torch

    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return start_facts() | {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "packages": versions,
    }
