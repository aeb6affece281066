"""The images of a run, prepared as its evaluation prepares them."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
from torch import Tensor

from distillkit.contracts import ModelSpec
from distillkit.data.datasets import open_datasets
from distillkit.data.sources import Source, Stream, load_image
from distillkit.data.transforms import evaluation_transform
from distillkit.errors import UserError
from distillkit.hooks import Plugins
from distillkit.recipe import Recipe
from distillkit.run_directory import RunDirectory
from distillkit_export.parity import BATCHES
from distillkit_export.pictures import Pictures, given_pictures, photographs

IMAGES = sum(BATCHES) + BATCHES[-1]
"""How many images of a run the parity check looks at: each batch size once, the largest twice."""


def as_run_knows(spec: ModelSpec, run: RunDirectory) -> ModelSpec:
    """`spec` with the names of the run's classes, and the crop and interpolation of its evaluation."""
    augment, names = run.read_recipe().augment, run.read_plan()["class_names"]
    class_names = None if names is None else tuple(names)
    return replace(spec, interpolation=augment.interpolation, crop=augment.eval_crop, class_names=class_names)


def run_pictures(spec: ModelSpec, run: RunDirectory, plugins: Plugins) -> Pictures:
    """The run's validation images, or photographs where it has none or they cannot be read."""
    recipe = run.read_recipe()
    try:
        source = open_datasets(recipe.data, plugins).validation
        if source is None:
            return photographs(spec, "the run has no validation images")
        images = _some_images(source, spec, recipe)
        return given_pictures(images, spec, f"validation images of run '{run.path.resolve().name}'")
    except UserError:
        # The data may have stayed on the machine that trained. The check goes on, weaker, and says so.
        return photographs(spec, "the run's validation images cannot be read here")


def _some_images(source: Source | Stream, spec: ModelSpec, recipe: Recipe) -> list[Tensor]:
    """The first images of a stream, or images spread evenly over a source, since sources are often sorted by class."""
    transform = evaluation_transform(recipe.augment, spec)
    if isinstance(source, Stream):
        return [transform(image) for image, _ in islice(source.read(0), IMAGES)]
    indices = np.unique(np.linspace(0, len(source) - 1, IMAGES).astype(int))
    return [transform(load_image(source, int(index))) for index in indices]
