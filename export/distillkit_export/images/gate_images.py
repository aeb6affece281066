"""Real images for the gate and for calibration: what the caller gives, the run's own, or two photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distillkit.contracts.exporter import side_multiples
from distillkit.errors import DataError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import ExportRequest
    from distillkit.contracts.model import ModelSpec

BATCHES = (1, 2, 7, 32)
"""Batch sizes that are measured. One and two catch a batch that was folded away, an odd one a batch that was frozen to
an even one, and thirty-two is a served one."""
CROP_SHARES = (0.9, 0.6, 0.3)
CROP_PLACES = (0.0, 0.5, 1.0)


class Pixels(Protocol):
    """Images that are read at every access; an array in memory is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Pictures:
    """Images, where they come from, whether they are a weak stand-in, and their classes.

    `others` are batches of other sizes, for a file that takes any. `note` is a caveat for the report.
    Shapes: pixels [n, C, H, W], float32, normalised with the model's mean and std; [n, H, W, C], uint8, for a file that
    normalises them itself; labels [n], the index of the model's class, negative where it is not known.
    """

    pixels: Pixels
    source: str
    weak: bool = False
    labels: NDArray[np.int64] | None = None
    others: tuple[NDArray[Any], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ExportImages:
    """What the gate looks at, and what ranges of activations are taken from; `calibration` is None without real ones.

    They are different images where there are enough.
    """

    gate: Pictures
    calibration: Pictures | None = None


def as_file_input(pictures: Pictures, spec: ModelSpec, request: ExportRequest) -> Pictures:
    """`pictures` as the file takes them: at several sizes where it takes any, as pixels where it normalises itself."""
    if request.dynamic_size:
        sizes = _other_sizes(spec)
        batches = tuple(
            _resized(pictures.pixels[np.arange(count) % len(pictures.pixels)], size)
            for count, size in zip(BATCHES, sizes, strict=False)
        )
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        pictures = replace(pictures, source=f"{pictures.source}, some also resized to {shown}", others=batches)
    if request.uint8:
        others = tuple(as_pixels(images, spec) for images in pictures.others)
        pixels: Pixels = _WholePixels(pictures.pixels, spec)
        if isinstance(pictures.pixels, np.ndarray):
            pixels = as_pixels(pictures.pixels, spec)
        pictures = replace(pictures, pixels=pixels, others=others)
    return pictures


def _other_sizes(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    """Larger ones, since small networks see nothing smaller: both sides, one alone, and the other far longer."""
    (height, width), (rows, columns) = spec.image_size, side_multiples(spec)
    return (height + rows, width + 2 * columns), (height + 3 * rows, width), (height, 2 * width)


def _resized(images: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bicubic, each channel by itself. Shapes: [b, C, H, W] to [b, C, *size]."""
    from PIL import Image

    planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC) for plane in np.concatenate(images)]
    return np.stack([np.asarray(plane) for plane in planes]).reshape(*images.shape[:2], *size)


def given_pictures(images: Iterable[Any], spec: ModelSpec, source: str = "given by the caller") -> Pictures:
    """Collect tensors or arrays, each one image [C, H, W] or a batch [b, C, H, W], normalised as `spec` says.

    Raises: DataError for no image at all; ShapeError for images that the model does not take.
    """
    collected = [_batch(image, spec) for image in images]
    if not collected:
        raise DataError("the parity check got no image; give at least one, or None for the photographs of scikit-learn")
    return Pictures(np.concatenate(collected), source)


def photographs(spec: ModelSpec, why: str) -> Pictures:
    """Crops of the two photographs that scikit-learn ships: real pictures, but not the model's own. `why` they serve.

    Every crop is three sizes at three by three places, which makes 27 of each photograph.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    height, width = spec.image_size
    mode = "L" if len(spec.mean) == 1 else "RGB"
    crops = []
    for photograph in load_sample_images().images:
        image = Image.fromarray(photograph).convert(mode)
        for share, across, down in product(CROP_SHARES, CROP_PLACES, CROP_PLACES):
            left, top = across * (1 - share) * image.width, down * (1 - share) * image.height
            box = (left, top, left + share * image.width, top + share * image.height)
            resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box))
            pixels = (resized.reshape(height, width, -1) / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
            crops.append(pixels.transpose(2, 0, 1))  # [C, H, W]
    source = f"crops of two photographs that scikit-learn ships, because {why}"
    return Pictures(given_pictures(crops, spec).pixels, source, weak=True)


def stand_in(spec: ModelSpec, why: str) -> ExportImages:
    """Photographs for the gate and none for calibration, because `why`."""
    return ExportImages(photographs(spec, why))


def normalised(pixels: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    """Pixels from 0 to 255 [b, H, W, C] as a model wants them, [b, C, H, W]; computed in float64."""
    scaled = (pixels / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def as_pixels(images: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.uint8]:
    """The pixels [b, H, W, C] from 0 to 255 that normalised images [b, C, H, W] were made of, or those nearest."""
    scaled = images.transpose(0, 2, 3, 1) * np.asarray(spec.std) + np.asarray(spec.mean)
    pixels: NDArray[np.uint8] = np.clip(np.round(scaled * 255), 0, 255).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class _WholePixels:
    """Normalised images as the pixels that they were made of, converted at every access."""

    images: Pixels
    spec: ModelSpec

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return as_pixels(self.images[indices], self.spec)


def _batch(image: Any, spec: ModelSpec) -> NDArray[np.float32]:
    """One image or batch as [b, C, H, W]."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().float().numpy()
    pixels = np.asarray(image, np.float32)
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    expected = (len(spec.mean), *spec.image_size)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise ShapeError(
            f"the parity check got images of shape {list(pixels.shape)}; model '{spec.name}' takes "
            f"[batch, {', '.join(map(str, expected))}]"
        )
    return pixels
