"""Checkpoints: safetensors and JSON, whole or not there, never a pickle.

A checkpoint is a directory ``step-00000042`` with one safetensors file per part and ``state.json``, which is written
last and names the parts. Checkpoints exist at optimiser steps only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distillkit.errors import CheckpointError
from distillkit.files import whole_directory, write_json, write_tensors

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of optimiser step `step`: tensors by part and name, and the rest as plain data."""

    step: int
    parts: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint below `directory` and delete all but the `keep` newest."""
    final = directory / f"step-{checkpoint.step:08d}"
    with whole_directory(final) as temporary:
        for part, tensors in checkpoint.parts.items():
            write_tensors(temporary / f"{part}.safetensors", _separate(tensors))
        header = {"format": FORMAT, "step": checkpoint.step, "parts": sorted(checkpoint.parts)}
        write_json(temporary / "state.json", header | {"state": dict(checkpoint.state)})
    for old in checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints below `directory`, oldest first."""
    return sorted(path.parent for path in directory.glob("step-*/state.json"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint into CPU tensors.

    Raises: CheckpointError where a part is missing or torn, or the format is another.
    """
    try:
        header = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {header['format']}; this version of distillkit reads format {FORMAT}"
            )
        parts = {part: load_file(path / f"{part}.safetensors") for part in header["parts"]}
        return Checkpoint(int(header["step"]), parts, header["state"])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); "
            "delete it to resume from the one before"
        ) from error


def split_optimizer_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's `state_dict` as tensors, named "<parameter>.<key>", and plain data."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    return tensors, {"plain": plain, "param_groups": state["param_groups"]}


def join_optimizer_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split_optimizer_state`."""
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in rest["plain"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in rest["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


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
