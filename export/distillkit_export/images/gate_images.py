"""Images for the gate and calibration: given by the caller, those of the run, or two sample photographs."""

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
"""Batch sizes that the gate runs. 1 and 2 detect a batch dimension that was folded away, 7 one that was fixed to an
even number, and 32 is typical in serving."""
CROP_SHARES = (0.9, 0.6, 0.3)
CROP_PLACES = (0.0, 0.5, 1.0)


class Pixels(Protocol):
    """Lazily read images, indexed by position; an array in memory also conforms.

    Shapes: indices [B] to pixels [B, C, H, W], or [B, H, W, C] for a file that normalises.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class ImageSet:
    """Images for the gate or calibration, with their source and labels.

    `weak` marks stand-ins for real images. `other_sizes` are batches of other image sizes, for a file with dynamic
    size. `note` is a warning for the report.
    Shapes: pixels [n, C, H, W], float32, normalised with the model's mean and std; [n, H, W, C], uint8, for a file that
    normalises; labels [n], the model's class index, negative if unknown.
    """

    pixels: Pixels
    source: str
    weak: bool = False
    labels: NDArray[np.int64] | None = None
    other_sizes: tuple[NDArray[Any], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ExportImages:
    """Images for the gate and for calibration, disjoint if there are enough.

    `calibration` is None without real images.
    """

    gate: ImageSet
    calibration: ImageSet | None = None


def as_file_input(images: ImageSet, spec: ModelSpec, request: ExportRequest) -> ImageSet:
    """`images` as the file's input: also at other sizes for dynamic size, as uint8 for a file that normalises."""
    if request.dynamic_size:
        sizes = _other_sizes(spec)
        batches = tuple(
            _resized(images.pixels[np.arange(count) % len(images.pixels)], size)
            for count, size in zip(BATCHES, sizes, strict=False)
        )
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        images = replace(images, source=f"{images.source}, some also resized to {shown}", other_sizes=batches)
    if request.uint8:
        others = tuple(as_pixels(batch, spec) for batch in images.other_sizes)
        pixels: Pixels = _Uint8Pixels(images.pixels, spec)
        if isinstance(images.pixels, np.ndarray):
            pixels = as_pixels(images.pixels, spec)
        images = replace(images, pixels=pixels, other_sizes=others)
    return images


def _other_sizes(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    """Three larger sizes: both sides, height alone, and a doubled width. Some networks do not support smaller ones."""
    (height, width), (rows, columns) = spec.image_size, side_multiples(spec)
    return (height + rows, width + 2 * columns), (height + 3 * rows, width), (height, 2 * width)


def _resized(images: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize bicubically, each channel separately, from [B, C, H, W] to [B, C, *size]."""
    from PIL import Image

    # By channel, because Pillow has no float32 image of several channels.
    channels = np.concatenate(images)  # [B * C, H, W]
    resized = [Image.fromarray(channel).resize(size[::-1], Image.Resampling.BICUBIC) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized]).reshape(*images.shape[:2], *size)  # [B, C, *size]


def given_images(images: Iterable[Any], spec: ModelSpec, source: str = "given by the caller") -> ImageSet:
    """Collect tensors or arrays into one set of images, normalised with the mean and std of `spec`.

    Shapes: each one image [C, H, W] or a batch [B, C, H, W]; `images` itself may be one.
    Raises: DataError if there is no image; ShapeError for images of the wrong shape or type.
    """
    if hasattr(images, "shape") or not hasattr(images, "__iter__"):
        images = [images]
    collected = [_batch(image, spec) for image in images]
    if not collected:
        raise DataError("there is no image for the parity check; give at least one, or None for sample photographs")
    return ImageSet(np.concatenate(collected), source)  # [n, C, H, W]


def photographs(spec: ModelSpec, why: str) -> ImageSet:
    """Crops of scikit-learn's two sample photographs, as weak stand-ins for real images. `why` goes into the source.

    27 crops of each photograph: three sizes, each at three by three positions.
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
            fractions = resized.reshape(height, width, -1) / 255  # [H, W, C]
            pixels = (fractions - np.asarray(spec.mean)) / np.asarray(spec.std)
            crops.append(pixels.transpose(2, 0, 1))  # [C, H, W]
    source = f"crops of two photographs that scikit-learn ships, because {why}"
    return ImageSet(given_images(crops, spec).pixels, source, weak=True)


def stand_in(spec: ModelSpec, why: str) -> ExportImages:
    """Photographs for the gate and no images for calibration, because of `why`."""
    return ExportImages(photographs(spec, why))


def normalised(pixels: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    """Normalise pixels from 0 to 255 [B, H, W, C] to model input [B, C, H, W], computed in float64."""
    scaled = (pixels / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)  # [B, C, H, W]


def as_pixels(images: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.uint8]:
    """Inverse of `normalised`: the nearest pixels [B, H, W, C] from 0 to 255 of normalised images [B, C, H, W]."""
    scaled = images.transpose(0, 2, 3, 1) * np.asarray(spec.std) + np.asarray(spec.mean)  # [B, H, W, C]
    pixels: NDArray[np.uint8] = np.clip(np.round(scaled * 255), 0, 255).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class _Uint8Pixels:
    """Lazy uint8 pixels of normalised images, converted at every access."""

    images: Pixels
    spec: ModelSpec

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return as_pixels(self.images[indices], self.spec)


def _batch(image: Any, spec: ModelSpec) -> NDArray[np.float32]:
    """One image or batch as float32 [B, C, H, W]."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().float().numpy()
    try:
        pixels = np.asarray(image, np.float32)
    except (TypeError, ValueError):
        raise ShapeError(
            f"an object of type {type(image).__name__} is not an image; give tensors or arrays [C, H, W] or "
            "[B, C, H, W], normalised with the model's mean and std"
        ) from None
    pixels = pixels[None] if pixels.ndim == 3 else pixels  # [B, C, H, W]
    expected = (len(spec.mean), *spec.image_size)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise ShapeError(
            f"images of shape {list(pixels.shape)} do not fit model '{spec.name}', which takes "
            f"[batch, {', '.join(map(str, expected))}]"
        )
    return pixels
