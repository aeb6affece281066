"""Image transforms: timm's and torchvision's, set up from the recipe's `[augment]`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from timm.data import create_transform
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

from distillkit.contracts.model import ModelSpec
from distillkit.data.fast_decoding import FastCrop
from distillkit.data.orientation import upright
from distillkit.data.pixels import Erased, PixelNormalisation
from distillkit.errors import RecipeError
from distillkit.recipe.image_tables import Augment

if TYPE_CHECKING:
    from PIL.Image import Image

Transform: TypeAlias = Callable[["Image"], Tensor]
"""An RGB image to [3, H, W] float32, normalised with the student's mean and standard deviation."""


class TrainingTransform:
    """The augmentation of a training image. Draws from the global generators; see `distillkit.data.randomness`.

    `on_image` are the steps on the image; they return another image and leave the given one as it is, since several
    views may be made of it. `on_pixels` are those on the normalised pixels [3, H, W], which they may change in place.
    """

    def __init__(self, on_image: Iterable[Any], on_pixels: Iterable[Any], spec: ModelSpec) -> None:
        on_image = list(on_image)
        self.fast_crop = next((step for step in on_image if isinstance(step, FastCrop)), None)
        self._on_image = transforms.Compose(on_image)
        self._on_pixels = list(on_pixels)
        self._normalise = PixelNormalisation(spec)
        self._shape = (3, *spec.image_size)

    def __call__(self, image: Image, out: Tensor | None = None) -> Tensor:
        """The augmented pixels [3, H, W], written to `out` if given."""
        augmented = self._normalise(self.pixels(image), torch.empty(self._shape) if out is None else out)
        for step in self._on_pixels:
            augmented = step(augmented)
        return augmented

    def pixels(self, image: Image) -> Tensor:
        """The pixels [H, W, 3] uint8 after the steps on the image."""
        return torch.from_numpy(np.array(self._on_image(image)))

    def erased(self, entry: int) -> tuple[Erased, ...]:
        """What the steps on the normalised pixels replace, for the image that `pixels` has just made; draws the same.

        Random erasing is the only such step, and it replaces one box whatever the pixels are.
        """
        if not self._on_pixels:
            return ()
        marked = torch.full(self._shape, math.nan)
        for step in self._on_pixels:
            marked = step(marked)
        is_erased = ~marked[0].isnan()  # [H, W]
        rows, columns = (is_erased.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
        if not rows:
            return ()
        top, left = rows[0], columns[0]
        values = marked[:, top : rows[-1] + 1, left : columns[-1] + 1].clone()
        return (Erased(entry, top, left, values),)


def training_transform(
    augment: Augment, spec: ModelSpec, decode: Literal["exact", "fast"] = "exact"
) -> TrainingTransform:
    """The augmentation that a recipe sets; with "fast", pixels are resized and turned by faster interpolations.

    Raises: RecipeError for an `augment.auto` that timm rejects.
    Source: timm's training transforms, which are DeiT's (Touvron et al. 2021, arXiv:2012.12877, table 9).
    """
    is_fast = decode == "fast" and augment.interpolation != "nearest"
    jitter: Any = augment.color_jitter or None  # None leaves the transform out; 0 would keep it, without effect
    try:
        first, second, last = create_transform(
            spec.image_size,
            is_training=True,
            separate=True,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.flip,
            auto_augment=augment.auto or None,
            color_jitter=jitter,
            re_prob=augment.erasing,
            re_mode="pixel",
            # Also that of rotations and shears in `auto`, where bilinear takes a third of the time of bicubic.
            interpolation="bilinear" if is_fast else augment.interpolation,
            mean=spec.mean,
            std=spec.std,
        )
    # timm checks the string with assertions; an invalid number in it raises any of the others.
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"augment.auto = '{augment.auto}' is not a valid auto-augment string of timm ({error}); "
            "give one such as rand-m9-mstd0.5-inc1"
        ) from error
    # timm's three stages are taken apart to replace the crop, which is the first step of the first one, and the
    # normalisation, the first two of the last one.
    timm_crop, *flip = first.transforms
    crop = FastCrop(timm_crop, augment.interpolation) if is_fast else timm_crop
    _to_tensor, _normalize, *erasing = last.transforms
    return TrainingTransform((*_turn(augment), *_crop(augment, spec, crop), *flip, second), erasing, spec)


def evaluation_size(augment: Augment, spec: ModelSpec) -> tuple[int, int]:
    """Height and width to which `evaluation_transform` resizes a square image before it crops."""
    height, width = spec.image_size
    return math.floor(height / augment.eval_crop), math.floor(width / augment.eval_crop)


def evaluation_transform(augment: Augment, spec: ModelSpec) -> Transform:
    """Resize to int(size / eval_crop), keeping the aspect ratio, and crop the centre, as in DeiT (deit/datasets.py)."""
    transform = create_transform(
        spec.image_size,
        crop_pct=augment.eval_crop,
        crop_mode="center",
        interpolation=augment.interpolation,
        mean=spec.mean,
        std=spec.std,
    )
    return _compose(*_turn(augment), *transform.transforms)


def _turn(augment: Augment) -> tuple[Callable[[Image], Image], ...]:
    """The first step: images upright, as their EXIF orientation says, unless the pixels are used as stored."""
    return (upright,) if augment.orientation == "exif" else ()


def _crop(augment: Augment, spec: ModelSpec, resized: Any) -> tuple[Any, ...]:
    """The crop of `augment.crop`: timm's random resized crop, or a crop without rescaling.

    "padded" and "none" resize the image until it covers the student's size, keeping the aspect ratio. "padded" crops at
    random, "none" at the centre, as evaluation does with `eval_crop` = 1.
    """
    if augment.crop == "resized":
        return (resized,)
    cover = ResizeKeepRatio(spec.image_size, interpolation=augment.interpolation)  # type: ignore[no-untyped-call]
    if augment.crop == "padded":
        return cover, transforms.RandomCrop(spec.image_size, padding=augment.padding)
    return cover, transforms.CenterCrop(spec.image_size)


def _compose(*steps: Any) -> Transform:
    composed: Transform = transforms.Compose(steps)
    return composed
