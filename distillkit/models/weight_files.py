"""Files of weights, as they are published: two formats, many wrappings."""

from __future__ import annotations

import argparse
import mmap
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distillkit.errors import WeightsError
from distillkit.messages.text import one_line, shortened
from distillkit.storage.untrusted import require_plain

WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net", "teacher", "student", "model_ema")
"""Keys under which a training checkpoint keeps its weights, the likelier first. The raw model goes before its moving
average, because that is what the authors of DeiT evaluate."""
WRAPPED = ("_orig_mod.", "module.")
"""What compilation and data parallelism put before every name."""
INSIDE = ("model.", "network.", "backbone.", "encoder.")
"""What a checkpoint that holds more than the network puts before the network's names."""

DECODER, MASK_TOKEN, RELATION_BLOCKS = "decoder_", "mask_token", "relation_blocks."
"""What MAE trains beside the tokens of its encoder, and what Mugs has inside its backbone for its group losses."""

BYTEARRAY = b"\nbytearray\n"
"""The end of the one instruction by which the pickles that torch reads name it."""
LARGEST_PICKLE = 2**30
"""Bytes. That of a checkpoint says names and shapes alone; the numbers lie beside it."""
DEEPEST = 8
"""How many wrappings may lie around the weights."""


def read_weights(path: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or of a weights-only PyTorch file.

    Wrappings ({"model": ...}) and what data parallelism puts before the names are taken off. `argparse.Namespace`,
    which DeiT's training checkpoints hold, is plain data and is let through; nothing in a file is ever executed.
    `shapes_only` reads the header alone and returns tensors on the meta device.
    Raises: WeightsError for a file that is missing, a directory, torn, no weight file, without tensors, or that
    wants to run code.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        return unwrapped_names(_read_safetensors(path, shapes_only=shapes_only))
    weights = _tensors(_read_torch(path, shapes_only=shapes_only))
    if not weights:
        raise WeightsError(f"{path} holds no tensors; give a file of weights")
    return unwrapped_names(weights)


def _require_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise WeightsError(
                f"{path} is a directory; give the weight file in it, or, if it is a run directory, --teacher run:{path}"
            )
        require_plain(path)
    except FileNotFoundError:
        raise WeightsError(f"there is no weight file {path}; check the path") from None
    except OSError as error:
        raise WeightsError(f"{shortened(str(path))} cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise WeightsError(f"{path} {error}; give a weight file") from None


def unwrapped_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what compilation and data parallelism put before every name.

    >>> list(unwrapped_names({"module.norm.bias": torch.ones(1), "module.head.bias": torch.ones(1)}))
    ['norm.bias', 'head.bias']
    """
    plain = dict(weights)
    while prefix := next((each for each in WRAPPED if plain and all(name.startswith(each) for name in plain)), None):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def names_of_network(weights: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Find the network that has the `known` names inside a checkpoint that holds more.

    What stands beside the network (projection heads, a predictor) is left out, unless the network knows its name.
    """
    best = dict(weights)
    for prefix in INSIDE:
        inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if len(inside.keys() & set(known)) > len(best.keys() & set(known)):
            best = {name: tensor for name, tensor in weights.items() if name in known} | inside
    return best


def without_training_parts(
    weights: Mapping[str, Tensor], known: Collection[str], *, unneeded: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Leave out what only self-supervised training needs of a network, and what is `unneeded`, unless it is known.

    A mask token counts as such beside a decoder alone; networks without one are told apart by it.

    >>> list(without_training_parts({"norm.bias": torch.ones(1), "decoder_norm.bias": torch.ones(1)}, ["norm.bias"]))
    ['norm.bias']
    """
    decodes = any(name.startswith(DECODER) for name in weights)
    parts = (*unneeded, RELATION_BLOCKS, *((DECODER, MASK_TOKEN) if decodes else ()))
    return {name: tensor for name, tensor in weights.items() if name in known or not name.startswith(parts)}


def _read_safetensors(path: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if shapes_only:
                shapes = {name: file.get_slice(name).get_shape() for name in names}
                return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        why = shortened(one_line(error))
        raise WeightsError(f"{path} is no whole .safetensors file ({why}); copy or download it again") from error
    except MemoryError as error:
        raise WeightsError(_too_large(path)) from error


def _read_torch(path: Path, *, shapes_only: bool) -> Any:
    if _makes_bytes(path):
        raise WeightsError(_refused(path, "builtins.bytearray"))
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write; the error below says it better
            return torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise WeightsError(_unreadable(path)) from error
        raise WeightsError(_refused(path, wanted[1])) from error
    except MemoryError as error:
        raise WeightsError(_too_large(path)) from error
    # What a torn or made-up pickle does to the reader has no end: KeyError, struct.error, RecursionError, ...
    except Exception as error:
        raise WeightsError(_unreadable(path)) from error


def _makes_bytes(path: Path) -> bool:
    """Whether a pickle calls `bytearray`, which weights-only mode lets it: `bytearray(10**12)` fills all memory."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if not path.stat().st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(BYTEARRAY) >= 0
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
            if any(entry.file_size > LARGEST_PICKLE for entry in pickles):
                raise WeightsError(_too_large(path))
            return any(BYTEARRAY in archive.read(entry) for entry in pickles)
    # A zip file that is none fails in many ways.
    except (
        OSError,
        ValueError,
        EOFError,
        LookupError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
    ) as error:
        raise WeightsError(_unreadable(path)) from error


def _refused(path: Path, wanted: str) -> str:
    return (
        f"{path} wants to run {shortened(wanted)} while it is loaded and was refused; ask for a .safetensors file, or, "
        "only if you trust where it comes from, load it once with torch.load(FILE, weights_only=False) and write "
        "the state dict that it holds with safetensors.torch.save_file"
    )


def _too_large(path: Path) -> str:
    return f"{path} holds more than this machine has memory for; give a smaller file, or use a larger machine"


def _unreadable(path: Path) -> str:
    return f"{path} is no whole weight file; give a .safetensors file or one written by torch.save"


def _tensors(content: Any, seen: frozenset[int] = frozenset()) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, however it is wrapped; `seen` are the wrappings around `content`."""
    if not isinstance(content, Mapping) or id(content) in seen or len(seen) == DEEPEST:
        return {}
    wrapped = {id(content[name]): content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)}
    found = (_tensors(inner, seen | {id(content)}) for inner in wrapped.values())
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return next(filter(None, found), own)
