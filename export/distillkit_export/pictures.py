"""Real images for the gate and for calibration: what the caller gives, the run's own, or two photographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distillkit.errors import DataError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts import ModelSpec
    from distillkit_export.bundle import InputCard

CROP_SHARES = (0.9, 0.6, 0.3)
CROP_PLACES = (0.0, 0.5, 1.0)


class Pixels(Protocol):
    """Images that are read when they are asked for; an array in memory is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Pictures:
    """Images, where they come from, whether they are a weak stand-in, and their classes.

    Shapes: pixels [n, C, H, W], float32, normalised with the model's mean and std, or as the exported file takes them;
    labels [n], the index of the model's class, negative where it is not known.
    """

    pixels: Pixels
    source: str
    weak: bool = False
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ImageWish:
    """Which images shall be used. None of `data` are the run's own, None of `gate` are all there are."""

    data: str | None = None
    gate: int | None = 1000
    calibration: int = 128


@dataclass(frozen=True)
class ExportImages:
    """What the gate looks at, and what ranges of activations are taken from; `calibration` is None without real ones.

    They are different images where there are enough.
    """

    gate: Pictures
    calibration: Pictures | None = None


def as_taken(pictures: Pictures, entry: InputCard) -> Pictures:
    """`pictures`, normalised, as the exported file takes them: themselves, or whole pixel values in NHWC."""
    if entry.dtype == "float32":
        return pictures
    return replace(pictures, pixels=_WholePixels(pictures.pixels, entry.mean, entry.std))


def as_whole_pixels(pixels: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo the normalisation. Shapes: [n, C, H, W] to [n, H, W, C], from 0 to 255."""
    unit = pixels.transpose(0, 2, 3, 1) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return (unit * 255).round().clip(0, 255).astype(np.uint8)


def normalised(pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """As `InputCard.scale` says. Shapes: [n, H, W, C] to [n, C, H, W]."""
    unit = (pixels.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(unit.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class _WholePixels:
    normalised: Pixels
    mean: Sequence[float]
    std: Sequence[float]

    def __len__(self) -> int:
        return len(self.normalised)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return as_whole_pixels(self.normalised[indices], self.mean, self.std)


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
