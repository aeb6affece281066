"""The default run directory, where `--out` is not given."""

from __future__ import annotations

import re
from pathlib import Path

from distillkit.recipe.schema import Recipe

RUNS = Path("runs")


def next_directory(recipe: Recipe, parent: Path = RUNS) -> Path:
    """The next free directory runs/<student>-<data>-NNN: one more than the highest existing number."""
    # The path is resolved, so that `--data .` gets the name of the folder.
    data = recipe.data.train or recipe.data.unlabeled or "digits"
    stem = "-".join(_file_name(part) for part in (recipe.student.model, Path(data).resolve().name) if part)
    taken = [
        int(path.name[len(stem) + 1 :]) for path in parent.glob(f"{stem}-*") if path.name[len(stem) + 1 :].isdecimal()
    ]
    return parent / f"{stem}-{max(taken, default=0) + 1:03d}"


def _file_name(text: str) -> str:
    """A name with special characters replaced by a hyphen: "timm:resnet18" becomes "timm-resnet18"."""
    return re.sub(r"[^\w.-]+", "-", text)
