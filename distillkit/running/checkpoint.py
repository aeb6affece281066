"""Checkpoints in safetensors and JSON, never a pickle; written completely or not at all.

A checkpoint is a directory ``step-00000042`` with one safetensors file per part, ``state.json``, and ``manifest.json``,
which is written last and holds size and digest of every other file. Checkpoints exist at optimiser steps only.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distillkit.errors import CheckpointError, TrainingError
from distillkit.messages.text import one_line, shortened
from distillkit.running.system_faults import is_disk_full
from distillkit.storage.atomic import sha256, whole_directory, write_json, write_tensors
from distillkit.storage.untrusted import read_json, require_plain

Content = TypeVar("Content")
FORMAT = 4
MANIFEST, STATE = "manifest.json", "state.json"
_DTYPES = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
}
PART = re.compile(r"[\w-]+\.safetensors")
NAME = re.compile(r"step-(\d{8,})")
LEFT_OVER = re.compile(r"\.?step-\d{8,}(\.tmp|\.old)?")


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of optimiser step `step`: tensors by part and name, and the rest as plain data."""

    step: int
    parts: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint below `directory`; delete all but the `keep` newest, and what a killed process left.

    Those of later steps are deleted, too: they are damaged, and the run was resumed before them.
    Raises: TrainingError where the disk is full; the earlier checkpoints are then as they were.
    """
    final = checkpoint_at(directory, checkpoint.step)
    try:
        write_files(directory, checkpoint)
    except (OSError, SafetensorError) as error:
        raise _no_room(directory, checkpoint, error) or error from error
    for path in checkpoints(directory):
        if _step(path) > checkpoint.step:
            _delete(path)
    delete_leftovers(directory, keep=keep, newest=checkpoint.step)
    return final


def write_files(directory: Path, checkpoint: Checkpoint, *, written: Mapping[str, Path] | None = None) -> None:
    """Write the files of a checkpoint, all or none. `written` are the files of further parts, which are moved there.

    Raises: OSError or SafetensorError where one cannot be written.
    """
    with whole_directory(checkpoint_at(directory, checkpoint.step)) as temporary:
        for part, tensors in checkpoint.parts.items():
            write_tensors(temporary / f"{part}.safetensors", _separate(tensors))
        for part, file in (written or {}).items():
            file.replace(temporary / f"{part}.safetensors")
        write_json(temporary / STATE, {"step": checkpoint.step, "state": dict(checkpoint.state)})
        files = {file.name: _fingerprint(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST, {"format": FORMAT, "files": files})


def checkpoint_at(directory: Path, step: int) -> Path:
    """The directory of the checkpoint of a step."""
    return directory / f"step-{step:08d}"


def checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints below `directory`, oldest first."""
    found = (path.parent for path in directory.glob(f"step-*/{MANIFEST}"))
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _delete(path: Path) -> None:
    """Delete a checkpoint, its manifest first: what is left where that is cut short is deleted the next time.

    A file that cannot be deleted is no reason to end a run.
    """
    with suppress(OSError):
        (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def delete_leftovers(directory: Path, *, keep: int, newest: int) -> None:
    """Delete partial checkpoints, which a killed process was writing or deleting, and all but the `keep` newest.

    The checkpoint of step `newest`, from which the run is resumed, and later ones stay.
    """
    complete = checkpoints(directory)
    old = [path for path in complete if _step(path) <= newest][:-keep]
    found = directory.iterdir() if directory.is_dir() else ()
    partial = [path for path in found if path not in complete and LEFT_OVER.fullmatch(path.name)]
    for path in old + partial:
        _delete(path)


def newest_checkpoint(directory: Path) -> tuple[Checkpoint | None, tuple[CheckpointError, ...]]:
    """The newest undamaged checkpoint, or None where there are none; and what is wrong with newer ones.

    Raises: CheckpointError where there are checkpoints and none can be read.
    """
    damaged: list[CheckpointError] = []
    for path in reversed(checkpoints(directory)):
        try:
            return read_checkpoint(path), tuple(damaged)
        except CheckpointError as error:
            damaged.append(error)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {directory} can be read: {'; '.join(map(str, damaged))}; restore one from a copy, or "
            "delete them all to begin the run again"
        )
    return None, ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint into CPU tensors, after every file was checked against the manifest.

    Raises: CheckpointError where a file is missing, truncated or altered, or the format is another.
    """
    try:
        parts = _verified_parts(path)
        content = _checked(path / STATE, read_json)
        if checkpoint_at(path.parent, content["step"]).name != path.resolve().name:
            raise CheckpointError(
                f"checkpoint {path} is damaged: it holds step {shortened(str(content['step']))}; give it its own name"
            )
        return Checkpoint(
            content["step"], {part: load_file(file) for part, file in parts.items()}, dict(content["state"])
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {Path(error.filename).name} is missing") from error
    except (OSError, LookupError, TypeError, AttributeError, ValueError, OverflowError, SafetensorError) as error:
        why = shortened(one_line(error))
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}: {why})") from error


@contextmanager
def restoring(step: int) -> Iterator[None]:
    """Turn every error while the checkpoint of a step is restored into one that says it belongs to another recipe.

    Raises: CheckpointError.
    """
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"the checkpoint of step {step} does not fit this recipe ({shortened(one_line(error))}); recipe.toml of a "
            "started run must not be changed"
        ) from error


def _verified_parts(path: Path) -> dict[str, Path]:
    """The file of each part, after all files in the manifest were checked; others are ignored."""
    manifest = _checked(path / MANIFEST, read_json)
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {shortened(str(manifest['format']))}; this version of distillkit reads "
            f"format {FORMAT}"
        )
    fingerprints = dict(manifest["files"])
    if STATE not in fingerprints:
        raise CheckpointError(f"checkpoint {path} is damaged: its {MANIFEST} does not list {STATE}")
    for name, fingerprint in fingerprints.items():
        if name != STATE and not PART.fullmatch(name):
            raise CheckpointError(f"checkpoint {path} lists {shortened(repr(name))}, which is no part of a checkpoint")
        _checked(path / name, require_plain)
        # The size first: a file that grew is not worth reading to its end.
        if (path / name).stat().st_size != fingerprint["bytes"] or _fingerprint(path / name) != fingerprint:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is not as it was written")
    return {name.removesuffix(".safetensors"): path / name for name in fingerprints if name != STATE}


def _checked(file: Path, read: Callable[[Path], Content]) -> Content:
    """What `read` makes of a file of a checkpoint."""
    try:
        return read(file)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {file.parent} is damaged: {file.name} {error}") from None


def _fingerprint(file: Path) -> dict[str, Any]:
    """Size and digest of a file, by which damage is found."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _no_room(directory: Path, checkpoint: Checkpoint, error: Exception) -> TrainingError | None:
    """The sentence for a full disk, or None where something else went wrong."""
    if not is_disk_full(error):
        return None
    needed = sum(tensor.nbytes for tensors in checkpoint.parts.values() for tensor in tensors.values())
    kept = checkpoints(directory)
    return TrainingError(
        f"no room for the checkpoint of step {checkpoint.step}: it needs {needed / 1e6:,.1f} MB and "
        f"{shutil.disk_usage(directory).free / 1e6:,.1f} MB are free in {directory}; "
        + (f"the one of {kept[-1].name} is whole; " if kept else "")
        + f"make room, then continue with --resume {directory.parent}"
    )


def split_optimizer_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's `state_dict` as named tensors and plain data, in which a tensor is {"tensor": its name}.

    Optimisers keep tensors and dtypes at any depth: a step in a group (Lamb), lists of preconditioners (Kron).
    """
    tensors: dict[str, Tensor] = {}
    state_of = {str(index): _plain(entries, str(index), tensors) for index, entries in state["state"].items()}
    groups = [_plain(group, f"group.{index}", tensors) for index, group in enumerate(state["param_groups"])]
    return tensors, {"state": state_of, "param_groups": groups}


def join_optimizer_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split_optimizer_state`. Raises many errors for other data; see `restoring`."""
    state = {int(index): _joined(entries, tensors) for index, entries in rest["state"].items()}
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in _joined(group, tensors).items()}
        for group in rest["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def _plain(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it; the tensors in it go into `tensors`, by names that begin with `name`."""
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
    """Contiguous CPU tensors of which no two share memory, as safetensors asks for."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        host = tensor.detach().to(torch.device("cpu")).contiguous()
        pointer = host.untyped_storage().data_ptr()
        separate[name] = host.clone() if pointer in seen or host.nbytes != host.untyped_storage().nbytes() else host
        seen.add(pointer)
    return separate
