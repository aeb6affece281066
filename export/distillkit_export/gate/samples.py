"""`samples.npz`: some images of the gate with the model's outputs, to gate files on a target without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distillkit.errors import BundleError
from distillkit_export.gate.parity import Reference
from distillkit_export.images.gate_images import ImageSet

if TYPE_CHECKING:
    from pathlib import Path

    from distillkit_export.bundle.reader import OpenBundle

SAMPLES = "samples.npz"
MAX_IMAGES = 48
MAX_BYTES = 4_000_000
"""Limit on the uncompressed pixels, in bytes: 48 float32 images of 32 x 32 pixels, six of 224 x 224."""


def write_samples(path: Path, reference: Reference) -> None:
    """Write evenly spaced images of `reference` with their outputs: as many as the limits allow, at least one.

    Arrays: `images` as the file's input, `answers` [n, K] with the model's outputs, and `labels` [n], negative if
    unknown.
    """
    images, count = reference.images, len(reference.images.pixels)
    image_bytes = images.pixels[np.array([0])].nbytes
    kept = max(1, min(MAX_IMAGES, count, MAX_BYTES // image_bytes))
    # Evenly spaced, because the images are often sorted by class.
    places = np.unique(np.linspace(0, count - 1, kept).astype(np.int64))
    labels = np.full(count, -1, np.int64) if images.labels is None else images.labels
    pixels = images.pixels[places]
    np.savez_compressed(path, images=pixels, answers=reference.outputs[places], labels=labels[places])


def read_samples(bundle: OpenBundle) -> Reference:
    """Read what `write_samples` wrote, as a reference for the gate.

    Raises: BundleError for a bundle without samples or with invalid ones.
    """
    arrays = bundle.arrays(SAMPLES)
    missing = {"images", "answers", "labels"} - set(arrays)
    if missing or len({len(array) for array in arrays.values()}) != 1 or not len(arrays["images"]):
        raise BundleError(f"{SAMPLES} of bundle '{bundle.folder}' has no images with outputs; export the student again")
    labels = arrays["labels"] if (arrays["labels"] >= 0).any() else None
    images = ImageSet(arrays["images"], f"the bundle's {SAMPLES}", labels=labels)
    name = f"torch {bundle.manifest.software.get('torch', '')}, as stored in {SAMPLES}"
    classes = bundle.manifest.output.kind != "embedding"
    return Reference(images, arrays["answers"], name, classes=classes, sample=True)
