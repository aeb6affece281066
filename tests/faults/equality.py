"""Whether a run directory can be read, and whether two runs came to the same."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from distillkit.models.saved_student import read_student
from distillkit.running.checkpoint import newest_checkpoint
from distillkit.running.directory import RunDirectory

TIMES = {"images_per_s", "data_wait"}
"""What of metrics.jsonl says how fast a run was."""
DIFFERS = {"report.md", "curves.png", ".lock"}
"""Shows times, or names the process."""


def require_readable(out: Path, *, since: int) -> int:
    """Read everything that a run directory has at this moment; the step of its newest checkpoint, or 0.

    Raises: whatever reading raises; AssertionError where a checkpoint is damaged or the newest one is older than
    `since`, the newest one of before.
    """
    directory = RunDirectory(out)
    if not directory.recipe.is_file():
        assert not directory.checkpoints.exists(), "checkpoints without a recipe"
        return 0
    directory.read_recipe()
    for file in (directory.plan, directory.environment, directory.result):
        if file.is_file():
            json.loads(file.read_text(encoding="utf-8"))
    checkpoint, damaged = newest_checkpoint(directory.checkpoints)
    assert damaged == (), f"damaged: {damaged}"
    step = checkpoint.step if checkpoint else 0
    assert step >= since, f"the checkpoint of step {since} is lost"
    for folder in (directory.best, directory.ema):
        if folder.is_dir():
            read_student(folder)
    if (out / "student.safetensors").exists():
        load_file(out / "student.safetensors")
    return step


def differences(undisturbed: Path, disturbed: Path, *, apart_from: Container[str] = ()) -> list[str]:
    """The files that two finished runs do not share bit by bit, apart from what depends on time and place."""
    one, two = (
        {name: content for name, content in _files(out).items() if name not in apart_from}
        for out in (undisturbed, disturbed)
    )
    missing = [f"{name} is in one of them alone" for name in sorted(one.keys() ^ two.keys())]
    return missing + [name for name in sorted(one.keys() & two.keys()) if one[name] != two[name]]


def _files(out: Path) -> dict[str, Any]:
    """What is compared of every file of a run, by its name."""
    return {
        path.relative_to(out).as_posix(): None if path.name in DIFFERS else _content(path)
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def _content(path: Path) -> Any:
    if path.name == "metrics.jsonl":
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [{key: value for key, value in record.items() if key not in TIMES} for record in records]
    return path.read_bytes()
