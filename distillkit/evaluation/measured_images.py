"""Images that an evaluation measures: its data sets, the split, and the recipe for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from distillkit.data.evaluation_root import evaluation_split
from distillkit.data.selection import Selection
from distillkit.data.sources import Source, Split, Stream
from distillkit.data.splits import DataSets, open_datasets
from distillkit.errors import DataError, UserError
from distillkit.evaluation.open_model import EvaluatedModel
from distillkit.messages.nearest_name import unknown_name
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.files import load_recipe
from distillkit.recipe.image_tables import Data
from distillkit.recipe.schema import Recipe
from distillkit.recipe.stored_paths import DATA_KEYS, STARTED_IN, require_stored_paths


@dataclass(frozen=True)
class DataChoice:
    """The options `data`, `split`, `validation` and `strict` of `evaluate`, and the protocol that they are for.

    `learns` says that the protocol learns from training images.
    """

    protocol: str
    learns: bool
    data: str | None = None
    split: Split | None = None
    validation: str | float | None = None
    strict: bool = False


@dataclass(frozen=True)
class MeasuredImages:
    """Labelled images to measure, `split` as a result names it, the data sets around them, and the recipe for them."""

    images: Source | Stream
    split: str
    datasets: DataSets
    recipe: Recipe


def measured_images(opened: EvaluatedModel, plugins: PluginRegistry, choice: DataChoice) -> MeasuredImages:
    """Open the data of a run, or other data, and choose the split to measure.

    Raises: DataError for data that cannot be opened, or lacks the split or labels; RecipeError for a path of the run
        that is not found, or an invalid `validation`; UserError for an unknown split.
    """
    only = None if choice.data is None else evaluation_split(choice.data, choice.split)
    if only is not None:
        if choice.learns:
            raise DataError(
                f"protocol '{choice.protocol}' learns from training images, and '{choice.data}' has no folder train; "
                "add one, or use --protocol top1"
            )
        choice = replace(choice, data=str(only.folder), split=None)
    if choice.data is None and opened.home is not None:
        require_stored_paths(opened.recipe, opened.home, lambda _: "give --data", keys=DATA_KEYS)
    datasets, recipe = _open_data(opened, choice, plugins)
    if choice.strict:
        # With a limit of 0, the first unreadable image is an error.
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"broken": 0.0})})
    split, images = _choose(datasets, choice)
    if only is not None:
        split = only.split
    if choice.learns:
        _check_learning(choice.protocol, datasets, split)
    return MeasuredImages(images, split, datasets, recipe)


def _open_data(opened: EvaluatedModel, choice: DataChoice, plugins: PluginRegistry) -> tuple[DataSets, Recipe]:
    """The data of the run, or other data, with all of its labels, and the recipe for it.

    Unless the protocol learns, nothing is held out for validation of other data without splits of its own.
    """
    recipe, data, validation = opened.recipe, choice.data, choice.validation
    changes: dict[str, Any] = {"labels": None}  # a limit for training, not for evaluation
    if data is not None:
        changes |= {"train": data, "unlabeled": None, "test": None}
        # The run's own validation folder, or that it had none, does not apply to other data.
        if isinstance(recipe.data.validation, str) or recipe.data.validation == 0:
            changes["validation"] = Data.model_fields["validation"].default
    if validation is not None:
        changes["validation"] = load_recipe(data={"validation": validation}).data.validation  # checked
    table = recipe.data.model_copy(update=changes)
    keeps_all = data is not None and validation is None and not choice.learns
    try:
        datasets = open_datasets(table, plugins)
        if keeps_all and datasets.test is None and _is_held_out(datasets):
            table = table.model_copy(update={"validation": 0.0})
            datasets = open_datasets(table, plugins)
    except DataError as error:
        is_located = opened.home is not None and (opened.home / STARTED_IN).is_file()
        if data is not None or recipe.data.train is None or is_located:  # the path is not the recipe's, or it is found
            raise
        raise DataError(
            f"{error}; the run's data path is relative to the folder in which the run was started: "
            "change to that folder, or give --data"
        ) from None
    return datasets, recipe.model_copy(update={"data": table})


def _is_held_out(datasets: DataSets) -> bool:
    """Whether the validation images were held out of the training images."""
    train, held = datasets.train, datasets.validation
    if not isinstance(train, Selection) or not isinstance(held, Selection):
        return False
    return held.parts[0].source is train.parts[0].source


def _choose(datasets: DataSets, choice: DataChoice) -> tuple[str, Source | Stream]:
    """Name and images of the split to measure, with labels.

    Raises: DataError if there are no labelled images; UserError for an unknown split.
    """
    if datasets.classes is None:
        raise DataError(
            f"protocol '{choice.protocol}' needs labels and '{datasets.train.name}' has none; "
            "give --data with one folder per class"
        )
    sources = {"train": datasets.train, "validation": datasets.validation, "test": datasets.test}
    if choice.split is not None and choice.split not in sources:
        raise UserError(unknown_name("split", choice.split, sources))
    is_unsplit = choice.data is not None and datasets.test is None and datasets.validation is None
    wanted = choice.split or ("train" if is_unsplit else "test" if datasets.test is not None else "validation")
    source = sources[wanted]
    if source is None:
        raise DataError(
            f"'{datasets.train.name}' has no labelled {wanted} images; give --data with some, or another --split"
        )
    if isinstance(source, Selection):
        source = source.only_labelled()
    return "all" if is_unsplit and choice.split is None else wanted, source


def _check_learning(protocol: str, datasets: DataSets, split: str) -> None:
    if split == "train":
        raise DataError(
            f"protocol '{protocol}' learns from the training images and cannot be measured on them; "
            "choose --split validation or test"
        )
    if not datasets.labelled.any():
        raise DataError(
            f"protocol '{protocol}' learns from labelled training images and '{datasets.train.name}' has none; "
            "give --data with some, or use --protocol top1"
        )
