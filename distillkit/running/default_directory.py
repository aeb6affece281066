"""Default run directories: a new one where `--out` is not given, the newest finished one where no target is."""

from __future__ import annotations

import re
from pathlib import Path

from distillkit.contracts.student_directory import DESCRIPTION, RECIPE, is_run
from distillkit.errors import RunDirectoryError
from distillkit.messages.text import command
from distillkit.recipe.schema import LABELS_ONLY, Recipe

RUNS = Path("runs")
RESULT = "result.json"


def next_directory(recipe: Recipe, parent: Path = RUNS) -> Path:
    """The next free directory runs/<student>-<data>-<losses>-seed<seed>-NNN: one more than the highest number."""
    # The path is resolved, so that `--data .` gets the name of the folder.
    data = recipe.data.train or recipe.data.unlabeled or "digits"
    losses = [entry.loss for entry in recipe.losses] or [LABELS_ONLY]
    parts = (recipe.student.model, Path(data).resolve().name, *dict.fromkeys(losses), f"seed{recipe.seed}")
    stem = "-".join(_file_name(part) for part in parts if part)
    taken = [
        int(path.name[len(stem) + 1 :]) for path in parent.glob(f"{stem}-*") if path.name[len(stem) + 1 :].isdecimal()
    ]
    return parent / f"{stem}-{max(taken, default=0) + 1:03d}"


def newest_run(parent: Path = RUNS) -> Path:
    """The run in `parent` that finished last, by the time of its result.json.

    Raises: RunDirectoryError if there is no finished run.
    """
    finished = [path for path in parent.glob("*") if all((path / name).is_file() for name in (RESULT, DESCRIPTION))]
    if finished:
        return max(finished, key=lambda path: ((path / RESULT).stat().st_mtime_ns, path.name))
    unfinished = [path for path in parent.glob("*") if is_run(path)]
    remedy = "train a student first with distillkit run"
    if unfinished:
        newest = max(unfinished, key=lambda path: ((path / RECIPE).stat().st_mtime_ns, path.name))
        remedy = f"continue {newest} with {command('distillkit', 'run', '--resume', newest)}"
    raise RunDirectoryError(f"no TARGET is given and there is no finished run in {parent}/; give TARGET, or {remedy}")


def _file_name(text: str) -> str:
    """A name with special characters replaced by a hyphen: "timm:resnet18" becomes "timm-resnet18"."""
    return re.sub(r"[^\w.-]+", "-", text)
