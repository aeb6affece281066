"""Image transforms: timm's and torchvision's, set up from the recipe's `[augment]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from timm.data import create_transform
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

from distillkit.contracts.model import ModelSpec
from distillkit.data.orientation import upright
from distillkit.errors import RecipeError
from distillkit.recipe.schema import Augment

if TYPE_CHECKING:
    from PIL.Image import Image

Transform: TypeAlias = Callable[["Image"], Tensor]
"""An RGB image to [3, H, W] float32, normalised with the student's mean and standard deviation."""


def training_transform(augment: Augment, spec: ModelSpec) -> Transform:
    """The augmentation of a training image. Draws from the global generators; see `distillkit.data.randomness`.

    Raises: RecipeError for an `augment.auto` that timm rejects.
    Source: timm's training transforms, which are DeiT's (Touvron et al. 2021, arXiv:2012.12877, table 9).
    """
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
            interpolation=augment.interpolation,
            mean=spec.mean,
            std=spec.std,
        )
    # timm checks the string with assertions; an invalid number in it raises any of the others.
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"augment.auto = '{augment.auto}' is not a valid auto-augment string of timm ({error}); "
            "give one such as rand-m9-mstd0.5-inc1"
        ) from error
    # timm's three stages are taken apart to replace the crop, which is the first step of the first one.
    crop, *flip = first.transforms
    return _compose(*_turn(augment), *_crop(augment, spec, crop), *flip, second, last)


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
