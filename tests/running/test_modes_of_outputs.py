"""Permissions of everything that a run and an export write: those that the umask allows, and no others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import run
from distillkit.storage.user_dirs import make_private
from distillkit_export.pipeline.export import export


@pytest.fixture
def private():
    """The umask of a user whose files only the group may read."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_outputs_of_a_run_and_an_export_follow_the_umask(private, recipe_of, tmp_path: Path) -> None:
    """Promise: Outputs are as private as the umask says, also while they are written.

    Attempt: Another user of the machine, who reads weights, samples of the data or reports.
    """
    training = {"steps": 4, "ema": 0.9, "checkpoint_every": 2}
    run(recipe_of({"training": training}, {"trackers": ["metrics", "report"]}), tmp_path / "run", installed_plugins())
    export(str(tmp_path / "run"), plugins=installed_plugins())
    written = {
        path.relative_to(tmp_path / "run").as_posix(): path.stat().st_mode for path in tmp_path.rglob("run/**/*")
    }
    assert {"metrics.jsonl", "curves.png", "best/student.safetensors", "export/bundle.json"} <= written.keys()
    files = {name: oct(stat.S_IMODE(mode)) for name, mode in written.items() if stat.S_ISREG(mode)}
    folders = {name: oct(stat.S_IMODE(mode)) for name, mode in written.items() if stat.S_ISDIR(mode)}
    assert {name for name, mode in files.items() if mode != "0o640"} == set()
    assert {name for name, mode in folders.items() if mode != "0o750"} == set()


def test_the_folder_of_trusted_engines_is_the_users_alone(tmp_path: Path) -> None:
    """Promise: Outputs are as private as the umask says, also while they are written.

    Attempt: Another user of the machine, who declares an engine trusted.
    """
    assert stat.S_IMODE(make_private(tmp_path / "engines").stat().st_mode) == 0o700
