"""`samples.npz`: some real images of the gate with the model's own answers, for targets that have no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distillkit.errors import BundleError
from distillkit_export.gate.parity import Evidence
from distillkit_export.images.gate_images import Pictures

if TYPE_CHECKING:
    from pathlib import Path

    from distillkit_export.bundle.reader import OpenBundle

SAMPLES = "samples.npz"
LARGEST_COUNT = 48
LARGEST_BYTES = 4_000_000
"""Of pixels, before they are packed: 48 images of 32 x 32 float pixels, six of 224 x 224."""


def write_samples(path: Path, against: Evidence) -> None:
    """Keep images spread evenly over those of `against`, as many as the bounds allow and at least one.

    Arrays: images as the file takes them, the model's answers [n, K], and labels [n], negative where none is known.
    """
    pictures, count = against.pictures, len(against.pictures.pixels)
    one = pictures.pixels[np.array([0])].nbytes
    kept = max(1, min(LARGEST_COUNT, count, LARGEST_BYTES // one))
    places = np.unique(np.linspace(0, count - 1, kept).astype(np.int64))
    labels = np.full(count, -1, np.int64) if pictures.labels is None else pictures.labels
    images = pictures.pixels[places]
    np.savez_compressed(path, images=images, answers=against.answers[places], labels=labels[places])


def read_samples(bundle: OpenBundle) -> Evidence:
    """What `write_samples` wrote, as something to hold a file against.

    Raises: BundleError for a bundle without samples, or with arrays that are none.
    """
    arrays = bundle.arrays(SAMPLES)
    missing = {"images", "answers", "labels"} - set(arrays)
    if missing or len({len(array) for array in arrays.values()}) != 1 or not len(arrays["images"]):
        raise BundleError(
            f"{SAMPLES} of bundle '{bundle.folder}' holds no images with answers; export the student again"
        )
    labels = arrays["labels"] if (arrays["labels"] >= 0).any() else None
    pictures = Pictures(arrays["images"], f"the bundle's {SAMPLES}", labels=labels)
    reference = f"torch {bundle.manifest.software.get('torch', '')}, as stored in {SAMPLES}"
    classes = bundle.manifest.output.kind != "embedding"
    return Evidence(pictures, arrays["answers"], reference, classes=classes, sample=True)
