"""The crop of evaluated images: the run's, the weights', the protocol's or the one given, and its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from distillkit.contracts.model import ModelSpec
from distillkit.data.transforms import evaluation_transform
from distillkit.errors import UserError
from distillkit.evaluation.evaluate import evaluate
from distillkit.evaluation.open_model import EvaluatedModel
from distillkit.evaluation.preprocessing import Preprocessing, choose_crop
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit_plugins.evaluators.few_label import FewLabel
from distillkit_plugins.evaluators.knn import NearestNeighbours
from distillkit_plugins.evaluators.linear import LinearProbe
from distillkit_plugins.evaluators.top1 import Top1

PLUGINS = installed_plugins()
SPEC = ModelSpec("dino-vits16", "vit", "vit", 0, frozenset(), (224, 224), crop=0.9)
DINO = "cropped as the protocol does (resize 256, crop 224); for the crop of the weights give --crop 0.9"


def opened(home: Path | None = None, **changes: Any) -> EvaluatedModel:
    """A teacher by name, or a run in `home`; as `open_model` opens them."""
    spec = replace(SPEC, **changes)
    recipe = Recipe.model_validate({"augment": {"eval_crop": spec.crop}})
    return EvaluatedModel(cast("Any", None), spec, recipe, Answer(), None, home)


Source = Literal["option", "protocol", "weights", "run"]


@pytest.mark.parametrize(
    ("model", "evaluator", "crop", "resize", "source", "notes"),
    [
        (opened(), NearestNeighbours, None, 256, "protocol", (DINO,)),
        (opened(), LinearProbe, None, 256, "protocol", (DINO,)),
        (opened(crop=0.875), LinearProbe, None, 256, "protocol", ()),
        (opened(), Top1, None, 248, "weights", ()),
        (opened(), FewLabel, None, 248, "weights", ()),
        (opened(Path("runs/dino")), NearestNeighbours, None, 248, "run", ()),
        (opened(), NearestNeighbours, 0.9, 248, "option", ()),
        (opened(Path("runs/dino")), Top1, 1.0, 224, "option", ()),
        # The protocol does not say what to do at other sizes.
        (opened(image_size=(32, 32), crop=1.0), NearestNeighbours, None, 32, "weights", ()),
    ],
)
def test_where_the_crop_is_from(
    model: EvaluatedModel,
    evaluator: Callable[..., Any],
    crop: float | None,
    resize: int,
    source: Source,
    notes: tuple[str, ...],
) -> None:
    changed, preprocessing, said = choose_crop(model, evaluator, crop)
    size = model.spec.image_size
    share = changed.recipe.augment.eval_crop
    assert preprocessing == Preprocessing((resize, resize), size, share, "bicubic", "exif", source)
    assert (preprocessing.resize, said) == ((resize, resize), notes)


@pytest.mark.parametrize("crop", [0.0, -1.0, 1.5, float("nan")])
def test_a_crop_that_is_no_share_is_refused(crop: float) -> None:
    with pytest.raises(UserError) as caught:
        choose_crop(opened(), Top1, crop)
    assert str(caught.value) == (f"--crop {crop:g} is not a share; give a number above 0 and up to 1, such as 0.875")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 480), (224, 224)])
def test_pixels_are_those_of_dinos_code(size: tuple[int, int]) -> None:
    """The transform of `eval_knn.py`: Resize(256, bicubic), CenterCrop(224), ToTensor, Normalize."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    model, *_ = choose_crop(opened(), NearestNeighbours, None)
    dino = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(SPEC.mean, SPEC.std),
        ]
    )
    assert torch.equal(evaluation_transform(model.recipe.augment, SPEC)(image), dino(image))


def test_the_result_records_the_crop() -> None:
    options: dict[str, Any] = {"protocol": "knn", "weights": "none", "data": "digits", "options": {"k": [20]}}
    result = evaluate("timm:test_vit", PLUGINS, **options)
    expected = {"resize": [168, 168], "crop": [160, 160], "share": 0.95, "source": "weights"}
    expected |= {"interpolation": "bicubic", "orientation": "exif"}
    assert result.as_dict()["preprocessing"] == expected
    result = evaluate("timm:test_vit", PLUGINS, **options, crop=0.875)
    expected |= {"resize": [182, 182], "share": 0.875, "source": "option"}
    assert result.as_dict()["preprocessing"] == expected
