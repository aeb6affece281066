"""Read weight files: .safetensors and PyTorch checkpoints, however the weights are nested in them."""

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
"""Keys of the weights in a training checkpoint, the likelier first. The raw model comes before its EMA, because the
authors of DeiT evaluate the raw model."""
PREFIXES = ("_orig_mod.", "module.")
"""Prefixes of all names after torch.compile and data parallelism."""
NETWORK_PREFIXES = ("model.", "network.", "backbone.", "encoder.")
"""Prefixes of the network's names in a checkpoint that holds more than the network."""

DECODER, MASK_TOKEN, RELATION_BLOCKS = "decoder_", "mask_token", "relation_blocks."
"""Parts that only training needs: MAE's decoder and mask token, and Mugs' blocks for its group losses."""

BYTEARRAY = b"\nbytearray\n"
"""How a pickle that torch can read names `bytearray`: the end of its GLOBAL instruction."""
LARGEST_PICKLE = 2**30
"""Bytes. The pickle in a checkpoint has only names and shapes; the values are in other entries of the archive."""
DEEPEST = 8
"""Maximum nesting of the weights in a checkpoint."""


def read_weights(path: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or of a weights-only PyTorch file.

    Wrappers ({"model": ...}) and prefixes of data parallelism are removed. `argparse.Namespace`, which is in DeiT's
    training checkpoints, is plain data and is allowed; nothing in a file is ever executed. `shapes_only` reads the
    header alone and returns tensors on the meta device.
    Shapes: weights of any shape.
    Raises: WeightsError for a missing file, a directory, a truncated or invalid weight file, one without tensors, or
        one that tries to run code.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        return unwrapped_names(_read_safetensors(path, shapes_only=shapes_only))
    weights = _tensors(_read_torch(path, shapes_only=shapes_only))
    if not weights:
        raise WeightsError(f"{path} has no tensors; give a weight file")
    return unwrapped_names(weights)


def _require_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise WeightsError(
                f"{path} is a directory; give the weight file in it, or, if it is a run directory, --teacher run:{path}"
            )
        require_plain(path)
        with path.open("rb") as file:  # here, because the readers report a missing permission as a damaged file
            file.read(1)
    except FileNotFoundError:
        raise WeightsError(f"there is no weight file {path}; check the path") from None
    except PermissionError as error:
        raise WeightsError(
            f"{shortened(str(path))} cannot be read ({error.strerror}); change its permissions, or those of its folder"
        ) from None
    except OSError as error:
        raise WeightsError(f"{shortened(str(path))} cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise WeightsError(f"{path} {error}; give a weight file") from None


def unwrapped_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that torch.compile and data parallelism add to all names. Shapes: any shape.

    >>> list(unwrapped_names({"module.norm.bias": torch.ones(1), "module.head.bias": torch.ones(1)}))
    ['norm.bias', 'head.bias']
    """
    plain = dict(weights)
    # A loop, since a model may be compiled and then wrapped, or the other way round.
    while prefix := next((each for each in PREFIXES if plain and all(name.startswith(each) for name in plain)), None):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def names_of_network(weights: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Extract the network with the `known` names from a checkpoint that holds more. Shapes: any shape.

    Other parts of the checkpoint (projection heads, a predictor) are dropped, unless the network has their names.
    """
    best = dict(weights)
    for prefix in NETWORK_PREFIXES:
        inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if len(inside.keys() & set(known)) > len(best.keys() & set(known)):
            best = {name: tensor for name, tensor in weights.items() if name in known} | inside
    return best


def without_training_parts(
    weights: Mapping[str, Tensor], known: Collection[str], *, unneeded: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Drop the parts that only self-supervised training needs, and `unneeded` prefixes, except `known` names.

    Shapes: any shape.

    >>> list(without_training_parts({"norm.bias": torch.ones(1), "decoder_norm.bias": torch.ones(1)}, ["norm.bias"]))
    ['norm.bias']
    """
    # Without a decoder a mask token stays: timm recognises DINOv2's layout by it.
    has_decoder = any(name.startswith(DECODER) for name in weights)
    dropped = (*unneeded, RELATION_BLOCKS, *((DECODER, MASK_TOKEN) if has_decoder else ()))
    return {name: tensor for name, tensor in weights.items() if name in known or not name.startswith(dropped)}


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
        raise WeightsError(f"{path} is not a valid .safetensors file ({why}); copy or download it again") from error
    except MemoryError as error:
        raise WeightsError(_too_large(path)) from error


def _read_torch(path: Path, *, shapes_only: bool) -> Any:
    if _calls_bytearray(path):
        raise WeightsError(_refused(path, "builtins.bytearray"))
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write; the error below is clearer
            return torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise WeightsError(_unreadable(path)) from error
        raise WeightsError(_refused(path, wanted[1])) from error
    except MemoryError as error:
        raise WeightsError(_too_large(path)) from error
    # A truncated or crafted pickle can raise anything: KeyError, struct.error, RecursionError, ...
    except Exception as error:
        raise WeightsError(_unreadable(path)) from error


def _calls_bytearray(path: Path) -> bool:
    """Whether a pickle calls `bytearray`. Weights-only mode allows it, and `bytearray(10**12)` fills all memory."""
    if not zipfile.is_zipfile(path):  # torch's legacy format: pickles without an archive
        with path.open("rb") as file:
            if not path.stat().st_size:  # mmap refuses empty files
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(BYTEARRAY) >= 0
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
            if any(entry.file_size > LARGEST_PICKLE for entry in pickles):
                raise WeightsError(_too_large(path))
            return any(BYTEARRAY in archive.read(entry) for entry in pickles)
    # An invalid zip file can raise any of these.
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
        f"{path} tries to run {shortened(wanted)} when it is loaded and was refused; get a .safetensors file, or, "
        "only if you trust its source, load it once with torch.load(FILE, weights_only=False) and save its state dict "
        "with safetensors.torch.save_file"
    )


def _too_large(path: Path) -> str:
    return f"{path} does not fit into the memory of this machine; give a smaller file, or use a larger machine"


def _unreadable(path: Path) -> str:
    return f"{path} is not a valid weight file; give a .safetensors file or one written by torch.save"


def _tensors(content: Any, seen: frozenset[int] = frozenset()) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, however it is wrapped; `seen` are the wrappers around `content`."""
    # A crafted checkpoint may contain itself.
    if not isinstance(content, Mapping) or id(content) in seen or len(seen) == DEEPEST:
        return {}
    # By identity, so that a mapping under several keys is searched once.
    wrapped = {id(content[name]): content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)}
    inside = (_tensors(inner, seen | {id(content)}) for inner in wrapped.values())
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return next(filter(None, inside), own)
