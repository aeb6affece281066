"""`digits`: scikit-learn's handwritten digits, real images without a download."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if find_spec("sklearn") is None:
    raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

if TYPE_CHECKING:
    from distillkit.data.sources import Split
    from distillkit.recipe.image_tables import Data

_TEST_PER_CLASS = 50


class Digits:
    """1,797 digits of 8 x 8 pixels in 17 shades of grey: 1,297 training and 500 test images, no validation images.

    The split is not random: for each class, in the order of scikit-learn's file, the test images are those at
    floor((i + 1/2) * images / 50) for i from 0 to 49, so that both splits contain all writers.
    Shapes: pixels [N, 8, 8], labels [N], numbers [N] (positions in scikit-learn's file).
    Source: E. Alpaydin & C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI machine learning repository
        (the subset that scikit-learn ships).
    """

    name = "digits"
    class_names = tuple("0123456789")

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        self._pixels = pixels
        self._labels = labels
        self._numbers = numbers

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Digits | None:
        if split == "validation":
            return None
        pixels, labels = _digits()
        is_test = _test_images(labels)
        numbers = np.flatnonzero(is_test if split == "test" else ~is_test)
        return cls(pixels[numbers], labels[numbers], numbers)

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, index: int) -> str:
        return f"{self._numbers[index]:04d}"

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).convert("RGB")


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All pixels [1797, 8, 8] and labels. A run opens both splits, and scikit-learn parses its text file every time."""
    table = _table()
    # Shades are 0 to 16.
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)  # [n, 8, 8]
    return pixels, table[:, -1].astype(np.int64)


def _table() -> NDArray[np.float64]:
    """The table of scikit-learn's `load_digits`, 64 shades and the label per row, [1797, 65]."""
    # Its text file is read directly: importing scikit-learn takes longer than all other steps of a plan.
    spec = find_spec("sklearn")
    file = Path(spec.origin if spec and spec.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    shades, labels = load_digits(return_X_y=True)
    return np.column_stack([shades, labels])


def _test_images(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    is_test = np.zeros(len(labels), np.bool_)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        # In integers, so that no rounding moves an image from one split to the other.
        places = (2 * np.arange(_TEST_PER_CLASS) + 1) * len(members) // (2 * _TEST_PER_CLASS)
        is_test[members[places]] = True
    return is_test
