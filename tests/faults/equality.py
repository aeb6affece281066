"""Checks of run directories: readable after a kill, and bit-equal to another run."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from distillkit.models.saved_student import read_student
from distillkit.running.checkpoint import newest_checkpoint
from distillkit.running.directory import RunDirectory

TIMES = {"images_per_s", "data_wait", "time"}
"""Keys of metrics.jsonl that depend on the time and the speed of a run."""
START_AND_END = {"started", "finished", "duration_s", "command", "bank", "loader", "runs_in_pass"}
"""Keys of environment.json and result.json that depend on the time of a run, or on how it was started; `bank` counts
since the last start, `loader` measures."""
DIFFERS = {"report.md", "report.html", "curves.png", ".lock"}
"""Files that contain times or a process id."""


def require_readable(out: Path, *, since: int) -> int:
    """Read all files of an unfinished run directory; returns the step of its newest checkpoint, or 0.

    Raises: all errors of reading; AssertionError where a checkpoint is damaged or the newest one is older than `since`,
    the newest step so far.
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
    """The files of two finished runs that are not bit-equal, ignoring what depends on time and place."""
    one, two = (
        {name: content for name, content in _files(out).items() if name not in apart_from}
        for out in (undisturbed, disturbed)
    )
    missing = [f"{name} is in only one of them" for name in sorted(one.keys() ^ two.keys())]
    return missing + [name for name in sorted(one.keys() & two.keys()) if one[name] != two[name]]


def _files(out: Path) -> dict[str, Any]:
    """The content to compare of each file of a run, by name; None where only its presence is compared."""
    return {
        path.relative_to(out).as_posix(): None if path.name in DIFFERS else _content(path)
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def _content(path: Path) -> Any:
    if path.name == "metrics.jsonl":
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [
            {key: value for key, value in record.items() if key not in TIMES}
            for record in records
            if not str(record.get("note")).startswith("bank: ")  # it counts since the last start
        ]
    if path.name in {"environment.json", "result.json"}:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in facts.items() if key not in START_AND_END}
    return path.read_bytes()
