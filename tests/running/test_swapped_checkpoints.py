"""Checkpoints whose files are replaced between the check of their SHA-256 and the load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from distillkit.errors import CheckpointError
from distillkit.running import checkpoint
from distillkit.running.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from distillkit.storage.untrusted import plain_sha256


def written(folder: Path, value: float) -> Path:
    parts = {"task": {"a": torch.full((3,), value)}, "optimizer": {"b": torch.full((2,), value)}}
    return write_checkpoint(folder, Checkpoint(2, parts, {"value": value}), keep=1)


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_checkpoint_is_loaded_from_the_files_that_were_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_proc: bool
) -> None:
    """Promise: What is loaded is what was checked.

    Attempt: A file of a checkpoint is replaced between the check of its SHA-256 and the load.
    """
    path, other = written(tmp_path / "one", 1.0), written(tmp_path / "two", 2.0)
    names = ("task.safetensors", "optimizer.safetensors", "state.json")

    def hashed(file, size):
        digest = plain_sha256(file, size)
        for name in names:
            if (other / name).exists() and os.path.samestat(os.fstat(file.fileno()), (path / name).stat()):
                (other / name).replace(path / name)
        return digest

    monkeypatch.setattr(checkpoint, "plain_sha256", hashed)
    if not has_proc:
        monkeypatch.setattr(checkpoint, "opened_path", lambda _: None)
    read = read_checkpoint(path)
    assert not any((other / name).exists() for name in names)
    assert {name: part[key].tolist() for name, part in read.parts.items() for key in part} == {
        "task": [1, 1, 1],
        "optimizer": [1, 1],
    }
    assert read.state == {"value": 1.0}
    with pytest.raises(CheckpointError, match="does not match the size and SHA-256"):
        read_checkpoint(path)


def test_files_that_the_manifest_does_not_list_are_never_opened(tmp_path: Path) -> None:
    """Promise: Files that a manifest does not list are never read.

    Attempt: A pipe, a broken link and a folder next to the files of a checkpoint.
    """
    path = written(tmp_path, 1.0)
    os.mkfifo(path / "ema.safetensors")
    (path / "loss.safetensors").symlink_to("/dev/zero")
    (path / "more").mkdir()
    assert set(read_checkpoint(path).parts) == {"task", "optimizer"}


@pytest.mark.parametrize("name", ["state.json", "task.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_nothing_but_a_regular_file_is_read(tmp_path: Path, name: str, kind: str) -> None:
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe, a device or a folder in place of a file of a checkpoint.
    """
    path = written(tmp_path, 1.0)
    (path / name).unlink()
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "device":
        (path / name).symlink_to("/dev/zero")
    else:
        shutil.copytree(path, path / name)
    what = {"pipe": "a pipe", "device": "a device", "folder": "a directory"}[kind]
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(path)
    assert str(refused.value) == f"checkpoint {path} is damaged: {name} is {what}, not a file"
