"""The folder that a run leaves behind."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from distillkit.errors import RunDirectoryError
from distillkit.files import write_json, write_text
from distillkit.recipe import Recipe
from distillkit.recipe_files import dump, load_recipe

PACKAGES = ("distillkit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pluggy", "pydantic")


class RunDirectory:
    """Names of the files of a run, and the rule that none is overwritten silently.

    recipe.toml           the resolved recipe
    plan.json             what was matched before the run
    environment.json      versions and device
    metrics.jsonl         one line per log interval and epoch
    checkpoints/          the latest checkpoints, for --resume
    student.safetensors   the student after the last step, with student.json
    best/                 the student that was best on the validation images
    ema/                  the moving average of the student, where the recipe asks for one
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

    def check_free(self) -> None:
        """Raise RunDirectoryError where something is there already."""
        if self.path.is_dir() and any(self.path.iterdir()):
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
        write_json(self.plan, plan)
        write_json(self.environment, environment(device))

    def read_recipe(self) -> Recipe:
        """The resolved recipe of a run that was started.

        Raises: RunDirectoryError where this is not a run directory.
        """
        if not self.recipe.is_file():
            raise RunDirectoryError(f"{self.path} is not a run directory (it has no recipe.toml); give one to --resume")
        return load_recipe(str(self.recipe))

    def read_plan(self) -> dict[str, Any]:
        """The plan as it was written when the run started.

        Raises: RunDirectoryError where it is missing or torn.
        """
        try:
            plan: dict[str, Any] = json.loads(self.plan.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.plan} is missing or torn; run the training again or restore it") from error
        return plan


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
