"""Read weight files: .safetensors and PyTorch checkpoints, however the weights are nested in them."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distillkit.errors import WeightsError
from distillkit.messages.text import one_line, shortened
from distillkit.models.checkpoint_parts import Parts, chosen, likeliest, listed, parts_of, place, rivals
from distillkit.models.network_names import unwrapped_names
from distillkit.models.pickle_scan import (
    MOST_OPERATIONS,
    PICKLES_BEFORE_ZIP,
    WITHOUT_STORAGE,
    TooManyOperationsError,
    UnexpectedCallError,
    scan,
)
from distillkit.models.weight_formats import ZIP, is_safetensors, refuse_other_format
from distillkit.storage.untrusted import open_plain, opened_path

LARGEST_PICKLE = 2**27
"""Bytes. The pickle in a checkpoint has only names and shapes; the values are in other entries of the archive."""
LARGEST_VIEW = 2**24
"""Numbers of a tensor that may have more of them than its storage, such as an expanded mask."""


class PlainValue:
    """Stands for a plain value in a checkpoint, such as an accuracy as a NumPy scalar; its content is not read."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


PLAIN_VALUES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath"),
)
"""Classes and functions of plain values; a `PlainValue` is made in their place."""


class Weights(dict[str, Tensor]):
    """Tensors by name, any shape, and `notes` on the part of the file that they are."""

    notes: tuple[str, ...] = ()


def read_weights(path: Path, *, shapes_only: bool = False) -> Weights:
    """Read the tensors of a .safetensors file or of a weights-only PyTorch file, whatever its suffix.

    Wrappers ({"model": ...}) and prefixes of data parallelism are removed. Where a file has several parts with weights,
    a note says which one is returned; `FILE#KEY` chooses another one. Plain data in training checkpoints
    (`argparse.Namespace` as in DeiT's, NumPy's values, paths) is skipped; nothing in a file is ever executed.
    `shapes_only` reads the header alone and returns tensors on the meta device; so does a call while that is torch's
    default device.
    Shapes: weights of any shape.
    Raises: WeightsError for a missing file, a directory, a truncated or invalid weight file, one without tensors, or
        one that tries to run code.
    """
    path, key = file_and_key(path)
    _require_file(path)
    # A plan builds models on the meta device, where values have no place.
    shapes_only = shapes_only or torch.get_default_device().type == "meta"
    refuse_other_format(path)
    if is_safetensors(path):
        parts: Parts = {"": _read_safetensors(path, shapes_only=shapes_only)}
    else:
        content = _read_torch(path, shapes_only=shapes_only)
        parts = parts_of(content)
        if not parts and (state := parts_of(content, training_state=True)):
            raise WeightsError(f"{path} has no weights, only {listed(state)}; give a weight file")
    if not parts:
        raise WeightsError(f"{path} has no tensors; give a weight file")
    if key is not None:
        return Weights(_with_values(path, chosen(parts, key, str(path))))
    taken = likeliest(parts, str(path))
    weights = Weights(_with_values(path, parts[taken]))
    if others := rivals(parts, taken):
        *first, last = map(place, others)
        more = f"{', '.join(first)} and {last}" if first else last
        # The top level has no key.
        remedy = next((f"; {path}#{other} loads the other" for other in others if other), "")
        weights.notes = (f"{path} has {more} besides {place(taken)}, which is loaded{remedy}",)
    return weights


def file_and_key(path: Path) -> tuple[Path, str | None]:
    """The file, and the key of its part if one is given: FILE#KEY."""
    file, hash_sign, key = str(path).rpartition("#")
    return (Path(file), key) if hash_sign and file and key and not _exists(path) else (path, None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _with_values(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a part of a file, any shape, with plain names, once each is known to be as large as its storage."""
    for name, tensor in weights.items():
        _require_values(path, name, tensor)
    return unwrapped_names(weights)


def _require_values(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is larger than its storage, before anything computes with it. Raises: WeightsError."""
    # The storage of sparse and quantised tensors is checked by torch.
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.numel() <= LARGEST_VIEW:
        return
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise WeightsError(
            f"{path} has a tensor '{shortened(name)}' of {shortened(str(list(tensor.shape)))}, which is "
            f"{tensor.numel():,} numbers, and stores {stored:,} of them; get the file again"
        )


def _require_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise WeightsError(
                f"{path} is a directory; give the weight file in it, or, if it is a run directory, --teacher run:{path}"
            )
        with open_plain(path) as file:  # here, because the readers report a missing permission as a damaged file
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


def _read_safetensors(path: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    try:
        with open_plain(path) as opened, safe_open(opened_path(opened) or path, framework="pt") as file:
            names = list(file.keys())
            if shapes_only:
                return {name: _without_values(file.get_slice(name)) for name in names}
            return {name: file.get_tensor(name) for name in names}
    # The last two: safetensors accepts any side of an empty tensor, torch none above 2**63.
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        why = shortened(one_line(error))
        raise WeightsError(f"{path} is not a valid .safetensors file ({why}); copy or download it again") from error
    except MemoryError as error:
        raise WeightsError(_too_large(path)) from error


def _without_values(header: Any) -> Tensor:
    """A meta tensor of the shape in a header; complex if the header says so, and float32 else. Shapes: any shape."""
    is_complex = header.get_dtype().startswith("C")
    return torch.empty(header.get_shape(), dtype=torch.complex64 if is_complex else torch.float32, device="meta")


def _read_torch(path: Path, *, shapes_only: bool) -> Any:
    try:
        known: list[Any] = [argparse.Namespace, *((PlainValue, name) for name in PLAIN_VALUES)]
        # One opened file, so that torch reads what was scanned; by path, torch reads .safetensors in that format.
        with open_plain(path) as file, torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write; the error below is clearer
            _scan_pickles(path, file)
            file.seek(0)
            return torch.load(file, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except WeightsError:
        raise
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


def _scan_pickles(path: Path, file: BinaryIO) -> None:
    """Refuse a file with a call that no saved state makes, before torch reads it. Raises: WeightsError."""
    try:
        is_zip = file.read(len(ZIP)) == ZIP  # what torch looks at, and not at the end, as Python does
        file.seek(0)
        if not is_zip:  # torch's format before zip
            scan(file, PICKLES_BEFORE_ZIP)
            return
        with zipfile.ZipFile(file) as archive:
            # In any case of letters, as torch finds it.
            pickles = [entry for entry in archive.infolist() if entry.filename.lower().endswith("data.pkl")]
            if any(entry.file_size > LARGEST_PICKLE for entry in pickles):
                raise WeightsError(_too_large(path))
            left = MOST_OPERATIONS
            for entry in pickles:
                left = scan(BytesIO(archive.read(entry)), most=left)
    except TooManyOperationsError:
        raise WeightsError(
            f"{path} has a pickle of more than {MOST_OPERATIONS:,} operations, which no weights need; save it again as "
            "a .safetensors file"
        ) from None
    except UnexpectedCallError as error:
        if error.name == WITHOUT_STORAGE:
            raise WeightsError(
                f"{path} has tensors without values, saved from a model on the meta device; save the weights of a "
                "model that has them"
            ) from None
        raise WeightsError(_refused(path, error.name)) from None
    # An invalid zip file or pickle can raise any of these.
    except (
        OSError,
        ValueError,
        EOFError,
        LookupError,
        RuntimeError,
        StopIteration,
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
