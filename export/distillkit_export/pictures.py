"""Real images for the parity check, as the model wants them: what the caller gives, or two photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import DataError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts import ModelSpec

CROP_SHARES = (0.9, 0.6, 0.3)
CROP_PLACES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Pictures:
    """Images for the parity check, where they come from, and whether they are a weak stand-in.

    Shapes: pixels [n, C, H, W], float32, normalised with the model's mean and std.
    """

    pixels: NDArray[np.float32]
    source: str
    weak: bool = False


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
