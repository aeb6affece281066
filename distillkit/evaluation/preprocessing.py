"""Resizing and cropping of the images that a model is evaluated on, and which rule chose the crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from distillkit.data.transforms import evaluation_size
from distillkit.errors import UserError
from distillkit.evaluation.open_model import EvaluatedModel

PROTOCOL_SIZE = (224, 224)
"""Image size for which protocols define their crop; DINO's is "resize 256, crop 224"."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizing (shorter side), centre crop (height, width), and the share of the resized image that the crop keeps.

    `source` is what the crop is from: the option `crop`, the protocol, the teacher's weights, or the run.
    """

    resize: tuple[int, int]
    crop: tuple[int, int]
    share: float
    interpolation: str
    orientation: str
    source: Literal["option", "protocol", "weights", "run"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with lists, as it is read back from JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        """For reports: "resize 256, crop 224"."""
        return f"resize {_size(self.resize)}, crop {_size(self.crop)}"


def choose_crop(
    opened: EvaluatedModel, evaluator: object, crop: float | None
) -> tuple[EvaluatedModel, Preprocessing, tuple[str, ...]]:
    """The model with the recipe for its images, their preprocessing, and notes on it.

    `crop` outranks all. A run is evaluated with its own crop. A teacher by name is evaluated with the crop of the
    protocol (`evaluator.crop`, optional) at the size that the protocol is defined for, else with that of its weights.
    Raises: UserError for a crop outside of (0, 1].
    """
    protocol: float | None = getattr(evaluator, "crop", None)
    own = opened.recipe.augment.eval_crop
    source: Literal["option", "protocol", "weights", "run"] = "weights" if opened.home is None else "run"
    share = own
    if crop is not None:
        if not 0 < crop <= 1:
            raise UserError(f"--crop {crop:g} is not a share; give a number above 0 and up to 1, such as 0.875")
        source, share = "option", crop
    elif source == "weights" and protocol is not None and opened.spec.image_size == PROTOCOL_SIZE:
        source, share = "protocol", protocol
    augment = opened.recipe.augment.model_copy(update={"eval_crop": share})
    resize = evaluation_size(augment, opened.spec)
    preprocessing = Preprocessing(
        resize, opened.spec.image_size, share, augment.interpolation, augment.orientation, source
    )
    recipe = opened.recipe.model_copy(update={"augment": augment})
    return replace(opened, recipe=recipe), preprocessing, tuple(_notes(preprocessing, own))


def _notes(preprocessing: Preprocessing, own: float) -> Iterator[str]:
    """A note where the protocol's crop replaces another one of the weights."""
    if preprocessing.source == "protocol" and preprocessing.share != own:
        yield f"cropped as the protocol does ({preprocessing}); for the crop of the weights give --crop {own:g}"


def _size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
