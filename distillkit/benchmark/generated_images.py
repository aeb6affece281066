"""Generated JPEG images in memory, about as large and as slow to decode as those of ImageNet."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from distillkit.data.selection import SelectedPart, Selection
from distillkit.data.splits import DataSets, fingerprint

NAME = "generated images"
SIZE, QUALITY, NOISE = (500, 375), 90, 14.0
"""Width and height, quality, and the standard deviation of the noise: about 100 kB, as on average in ImageNet."""
DIFFERENT = 32


class GeneratedImages:
    """A data set of `count` labelled images: `DIFFERENT` JPEG files in memory, repeated."""

    name = NAME
    class_names: tuple[str, ...] | None = None

    def __init__(self, count: int, classes: int) -> None:
        self._count, self._classes = count, classes
        draw = np.random.default_rng(0)
        self._files = [_jpeg(draw) for _ in range(min(count, DIFFERENT))]

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return f"{index:06}.jpg"

    def label(self, index: int) -> int:
        return index % self._classes

    def file(self, index: int) -> BytesIO:
        """The file of an image."""
        return BytesIO(self._files[index % len(self._files)])

    def image(self, index: int) -> Image.Image:
        return Image.open(self.file(index)).convert("RGB")


def generated_data(count: int, classes: int) -> DataSets:
    """`count` generated images of `classes` classes as the training images of a run."""
    train = Selection(NAME, None, [SelectedPart.whole(GeneratedImages(count, max(classes, 1)))])
    return DataSets(train, train.labelled(), None, None, None, classes, (), fingerprint(train, None))


def _jpeg(draw: np.random.Generator) -> bytes:
    """One file: smooth random colours with noise."""
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, np.float32) + draw.normal(0, NOISE, (*SIZE[::-1], 1))  # [H, W, 3]
    content = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
