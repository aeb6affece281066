"""Run directories with links in place of their folders are refused before anything is written or deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillkit.errors import RunDirectoryError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import dump
from distillkit.running.checkpoint import Checkpoint, delete_leftovers, write_checkpoint
from distillkit.running.directory import RunDirectory
from distillkit.running.start import resume


@pytest.fixture
def started(recipe_of: Any, tmp_path: Path) -> Path:
    """A run directory of a third party: a recipe and a checkpoint."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(dump(recipe_of({"training": {"steps": 20}})))
    write_checkpoint(run / "checkpoints", Checkpoint(2, {"task": {"a": torch.ones(2)}}, {}), keep=2)
    return run


@pytest.mark.parametrize(
    "name", ["best", "ema", "attention", "incidents", "checkpoints/step-00000004", "checkpoints/.step-00000004.old"]
)
def test_a_run_with_a_linked_folder_is_not_resumed(started: Path, tmp_path: Path, name: str) -> None:
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A run directory with a link in place of one of its folders or checkpoints, for --resume.
    """
    outside = (tmp_path / "run" / "checkpoints").rename(tmp_path / "outside") if "step" in name else tmp_path / "home"
    outside.mkdir(exist_ok=True)
    (outside / "precious").write_text("precious")
    link = started / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    before = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    with pytest.raises(RunDirectoryError) as refused:
        resume(started, installed_plugins())
    assert str(refused.value) == (
        f"{link} is a link, and distillkit writes only inside a run, bundle or bank itself; replace the "
        "link with what it leads to, or delete it"
    )
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == before


def test_deleting_a_linked_checkpoint_deletes_the_link_alone(started: Path, tmp_path: Path) -> None:
    """Promise: Nothing outside a run, bundle or bank is moved or deleted through a link.

    Attempt: A link with the name of an old checkpoint, to a folder with a `manifest.json`.
    """
    outside = started / "checkpoints" / "step-00000002"
    outside = outside.rename(tmp_path / "outside")
    for step in (1, 2):
        (started / "checkpoints" / f"step-0000000{step}").symlink_to(outside)
    delete_leftovers(started / "checkpoints", keep=1, newest=2)
    assert [path.name for path in (started / "checkpoints").iterdir()] == ["step-00000002"]
    assert sorted(path.name for path in outside.iterdir()) == ["manifest.json", "state.json", "task.safetensors"]


def test_a_run_directory_that_is_itself_a_link_is_the_users(started: Path, tmp_path: Path) -> None:
    """A user may keep runs on another disk."""
    (tmp_path / "mine").symlink_to(started)
    (started / "data").symlink_to(tmp_path)
    RunDirectory(tmp_path / "mine").check_writable()
    with RunDirectory(tmp_path / "mine").locked():
        pass
