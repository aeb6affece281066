"""Checkpoints in safetensors and JSON, without pickle; written atomically and verified when read.

A checkpoint is a directory ``step-00000042`` with one safetensors file per part, ``state.json``, and ``manifest.json``,
which is written last and lists the size and SHA-256 of every other file. Checkpoints are taken after optimiser steps.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from distillkit.errors import CheckpointError, TrainingError
from distillkit.messages.text import command, one_line, shortened
from distillkit.running.checkpoint_folders import MANIFEST, checkpoint_at, checkpoints, step_of
from distillkit.running.system_faults import is_disk_full
from distillkit.storage.atomic import sha256, write_json, write_tensors
from distillkit.storage.atomic_directory import atomic_directory
from distillkit.storage.deletion import delete
from distillkit.storage.links import is_link
from distillkit.storage.untrusted import LARGEST_TEXT, open_plain, opened_path, parse_json, plain_sha256, read_json

Content = TypeVar("Content")
FORMAT = 4
STATE = "state.json"
_DTYPES = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
}
PART = re.compile(r"[\w-]+\.safetensors")
LEFT_OVER = re.compile(r"\.?step-\d{8,}((\.[0-9a-f]{8})?(\.tmp|\.old|\.new)?|\.lock)")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after optimiser step `step`: tensors by part and name, and the rest as plain data."""

    step: int
    parts: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint below `directory`, then delete partial ones and all but the `keep` newest.

    Raises: TrainingError where the disk is full; earlier checkpoints are unchanged.
    """
    final = checkpoint_at(directory, checkpoint.step)
    try:
        write_files(directory, checkpoint)
    except (OSError, SafetensorError) as error:
        raise _disk_full(directory, checkpoint, error) or error from error
    # Checkpoints of later steps are damaged: otherwise the run would have resumed from one of them.
    for path in checkpoints(directory):
        if step_of(path) > checkpoint.step:
            _delete(path)
    delete_leftovers(directory, keep=keep, newest=checkpoint.step)
    return final


def write_files(directory: Path, checkpoint: Checkpoint, *, moved: Mapping[str, Path] | None = None) -> None:
    """Write the files of a checkpoint atomically. `moved` are existing files of further parts, moved into it.

    Raises: OSError or SafetensorError where a file cannot be written.
    """
    with atomic_directory(checkpoint_at(directory, checkpoint.step)) as temporary:
        for part, tensors in checkpoint.parts.items():
            write_tensors(temporary / f"{part}.safetensors", _separate(tensors))
        for part, file in (moved or {}).items():
            file.replace(temporary / f"{part}.safetensors")
        write_json(temporary / STATE, {"step": checkpoint.step, "state": dict(checkpoint.state)})
        files = {file.name: _fingerprint(file) for file in sorted(temporary.iterdir())}
        # Last: a directory without a manifest is a partial checkpoint.
        write_json(temporary / MANIFEST, {"format": FORMAT, "files": files})


def _delete(path: Path) -> None:
    """Delete a checkpoint or a lock; what cannot be deleted does not stop the run. Of a link, the link alone."""
    if not is_link(path):
        # The manifest first: if the process is killed here, the rest counts as partial and is deleted next time.
        with suppress(OSError):
            (path / MANIFEST).unlink(missing_ok=True)
    delete(path)


def delete_leftovers(directory: Path, *, keep: int, newest: int) -> None:
    """Delete partial checkpoints and locks, left by a killed process, and all but the `keep` newest.

    `newest` is the step that the run resumes from. Later checkpoints, which are damaged, stay until the next write.
    """
    complete = checkpoints(directory)
    old = [path for path in complete if step_of(path) <= newest][:-keep]
    found = directory.iterdir() if directory.is_dir() else ()
    partial = [path for path in found if path not in complete and LEFT_OVER.fullmatch(path.name)]
    for path in old + partial:
        _delete(path)


def newest_checkpoint(directory: Path) -> tuple[Checkpoint | None, tuple[CheckpointError, ...]]:
    """The newest intact checkpoint, or None without any checkpoints; and the errors of newer, damaged ones.

    Raises: CheckpointError where all checkpoints are damaged.
    """
    damaged: list[CheckpointError] = []
    for path in reversed(checkpoints(directory)):
        try:
            return read_checkpoint(path), tuple(damaged)
        except CheckpointError as error:
            damaged.append(error)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {directory} can be read: {'; '.join(map(str, damaged))}; restore one from a backup, or "
            "delete them all to restart the run"
        )
    return None, ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint into CPU tensors, after checking every file against the manifest.

    Raises: CheckpointError where a file is missing, truncated or altered, or the format is unsupported.
    """
    try:
        # All are opened before any is loaded, and what was hashed is loaded, not what their names lead to by then.
        with ExitStack() as stack:
            opened = {name: stack.enter_context(_opened(path, name, mark)) for name, mark in _listed(path).items()}
            content = _checked(path / STATE, lambda _: _state(opened.pop(STATE)))
            parts = {name.removesuffix(".safetensors"): _tensors(file) for name, file in opened.items()}
        if checkpoint_at(path.parent, content["step"]).name != path.resolve().name:
            raise CheckpointError(
                f"checkpoint {path} is damaged: it holds step {shortened(str(content['step']))}, which is not the step "
                "in its name; rename it"
            )
        return Checkpoint(content["step"], parts, dict(content["state"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {Path(error.filename).name} is missing") from error
    except (OSError, LookupError, TypeError, AttributeError, ValueError, OverflowError, SafetensorError) as error:
        why = shortened(one_line(error))
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}: {why})") from error


@contextmanager
def restoring(step: int) -> Iterator[None]:
    """Turn errors while the checkpoint of a step is restored into a CheckpointError: it belongs to another recipe."""
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"the checkpoint of step {step} does not fit this recipe ({shortened(one_line(error))}); restore the "
            "recipe.toml with which the run was started"
        ) from error


def _listed(path: Path) -> dict[str, Mapping[str, Any]]:
    """Size and SHA-256 of the files in the manifest; files that it does not list are never read."""
    manifest = _checked(path / MANIFEST, read_json)
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {shortened(str(manifest['format']))}; this version of distillkit reads "
            f"format {FORMAT}"
        )
    fingerprints = dict(manifest["files"])
    if STATE not in fingerprints:
        raise CheckpointError(f"checkpoint {path} is damaged: its {MANIFEST} does not list {STATE}")
    for name in fingerprints:
        if name != STATE and not PART.fullmatch(name):
            raise CheckpointError(f"checkpoint {path} lists {shortened(repr(name))}, which is not a checkpoint file")
    return fingerprints


def _opened(path: Path, name: str, fingerprint: Mapping[str, Any]) -> BinaryIO:
    """A file of a checkpoint, opened, after checking its size and SHA-256."""
    file = _checked(path / name, open_plain)
    size = os.fstat(file.fileno()).st_size
    # The size first: hashing a file that was replaced by a huge one would take long.
    if size != fingerprint["bytes"] or {"bytes": size, "sha256": plain_sha256(file, size)} != fingerprint:
        file.close()
        raise CheckpointError(f"checkpoint {path} is damaged: {name} does not match the size and SHA-256 in {MANIFEST}")
    file.seek(0)
    return file


def _state(file: BinaryIO) -> Any:
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST_TEXT:
        raise ValueError(f"has {size:,} bytes, more than the limit of {LARGEST_TEXT:,}")
    return parse_json(file.read(size).decode())


def _tensors(file: BinaryIO) -> dict[str, Tensor]:
    model = opened_path(file)
    return load(file.read()) if model is None else load_file(model)


def _checked(file: Path, read: Callable[[Path], Content]) -> Content:
    """Read a checkpoint file with `read`; its ValueError becomes a CheckpointError that names the file."""
    try:
        return read(file)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {file.parent} is damaged: {file.name} {error}") from None


def _fingerprint(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, to detect damage."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _disk_full(directory: Path, checkpoint: Checkpoint, error: Exception) -> TrainingError | None:
    """The error for a full disk, or None for any other cause."""
    if not is_disk_full(error):
        return None
    needed = sum(tensor.nbytes for tensors in checkpoint.parts.values() for tensor in tensors.values())
    kept = checkpoints(directory)
    return TrainingError(
        f"no disk space for the checkpoint of step {checkpoint.step}: it needs {needed / 1e6:,.1f} MB and "
        f"{shutil.disk_usage(directory).free / 1e6:,.1f} MB are free in {directory}; "
        + (f"checkpoint {kept[-1].name} is intact; " if kept else "")
        + f"free some space, then continue with {command('--resume', directory.parent)}"
    )


def split_optimizer_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's `state_dict` into named tensors (any shape) and plain data.

    In the plain data, {"tensor": name} stands for a tensor. Optimisers keep tensors and dtypes at any depth: the step
    in a parameter group (Lamb), lists of preconditioners (Kron).
    """
    tensors: dict[str, Tensor] = {}
    state_of = {str(index): _plain(entries, str(index), tensors) for index, entries in state["state"].items()}
    groups = [_plain(group, f"group.{index}", tensors) for index, group in enumerate(state["param_groups"])]
    return tensors, {"state": state_of, "param_groups": groups}


def join_optimizer_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Join an optimiser's `state_dict` from tensors (any shape) and plain data; inverse of `split_optimizer_state`.

    Raises: many kinds of errors for invalid data; use it inside `restoring`.
    """
    state = {int(index): _joined(entries, tensors) for index, entries in rest["state"].items()}
    groups = [
        # JSON turned this tuple into a list.
        {key: tuple(value) if key == "betas" else value for key, value in _joined(group, tensors).items()}
        for group in rest["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def _plain(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON data; its tensors are added to `tensors` under names that start with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {key: _plain(inner, f"{name}.{key}", tensors) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{name}.{index}", tensors) for index, inner in enumerate(value)]
    return value


def _joined(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        if value.keys() == {"dtype"}:
            return _DTYPES[value["dtype"]]
        return {key: _joined(inner, tensors) for key, inner in value.items()}
    return [_joined(inner, tensors) for inner in value] if isinstance(value, list) else value


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors (any shape), no two of which share memory: safetensors requires both."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        host = tensor.detach().to(torch.device("cpu")).contiguous()
        # Tied weights share their storage; a view has a larger storage than it needs.
        pointer = host.untyped_storage().data_ptr()
        separate[name] = host.clone() if pointer in seen or host.nbytes != host.untyped_storage().nbytes() else host
        seen.add(pointer)
    return separate
