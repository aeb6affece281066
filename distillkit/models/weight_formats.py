"""Formats of weight files, recognised by their content: .safetensors, PyTorch's, and others by name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from distillkit.errors import WeightsError
from distillkit.storage.untrusted import open_plain

HEAD = 512
"""Bytes in which every format is recognised."""
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS and not the weights; fetch them with `git lfs pull`",
    b"<!doctype html": "a web page and not weights; download the file itself",
    b"<html": "a web page and not weights; download the file itself",
    b"\x89hdf": "an HDF5 file of Keras; convert its weights to PyTorch first",
    b"gguf": "a GGUF file; give the weights in PyTorch's format or as .safetensors",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}
"""How other files begin, in lower case, and what they are."""
ENTRIES = {
    "/constants.pkl": "a TorchScript archive, whose code is not run; if you trust it, save its weights once with "
    "torch.save(torch.jit.load(FILE).state_dict(), NEW)",
    "/models/model.json": "a program of torch.export; if you trust it, save its weights once with "
    "torch.save(torch.export.load(FILE).state_dict, NEW)",
    ".npy": "an archive of NumPy arrays, such as Google's weights of ViT; convert it once with timm: "
    "load_pretrained(FILE) of the model, then torch.save(model.state_dict(), NEW)",
    "model.weights.h5": "a model of Keras; convert its weights to PyTorch first",
}
"""Names in other zip archives, and what these are."""


def is_safetensors(path: Path) -> bool:
    """Whether the content is that of a .safetensors file, or, where it is unknown, the suffix."""
    head = _head(path)
    if head[8:9] == b"{":
        return True
    return path.suffix == ".safetensors" and not head.startswith((ZIP, PICKLE))


def refuse_other_format(path: Path) -> None:
    """Refuse a file of a known format that has no state dict of PyTorch.

    Raises: WeightsError that names the format and says what to do.
    """
    head = _head(path).lstrip().lower()
    what = next((what for beginning, what in BEGINNINGS.items() if head.startswith(beginning)), None)
    if what is None and head.startswith(ZIP.lower()):
        what = _kind_of_archive(path)
    if what is not None:
        raise WeightsError(f"{path} is {what}")


def _head(path: Path) -> bytes:
    with open_plain(path) as file:
        return file.read(HEAD)


def _kind_of_archive(path: Path) -> str | None:
    """What a zip archive is if it is not a checkpoint; None for a checkpoint and a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    return next((what for end, what in ENTRIES.items() if any(name.endswith(end) for name in names)), None)
