"""Images of a run or of --data for the gate and calibration, preprocessed as in the run's evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillkit.contracts.model import ModelSpec
from distillkit.data.resolve_source import without_recipe_key
from distillkit.data.selection import UNLABELLED, labels_of
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.splits import DataSets, open_datasets
from distillkit.data.transforms import Transform, evaluation_transform
from distillkit.errors import ClassSpaceError, DataError, UnreadableImageError, UserError
from distillkit.models.class_matching import match_classes, numbered_outputs
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.image_tables import Augment, Data
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit_export.export_options import CALIBRATION_IMAGES, ExportOptions
from distillkit_export.images.gate_images import ExportImages, ImageSet, Pixels, stand_in

IN_MEMORY_BYTES = 256 * 2**20
"""Limit on pixels kept in memory; with more, images are read again for every file that is gated."""
SHOWN_NAMES = 3
"""Number of class names in a message."""


def with_run_settings(spec: ModelSpec, run: RunDirectory) -> ModelSpec:
    """`spec` with the class names of the run, and the preprocessing of its evaluation."""
    recipe, names = run.read_recipe(), run.read_plan()["class_names"]
    augment = recipe.augment
    class_names = None if names is None else tuple(names)
    return replace(
        spec,
        interpolation=augment.interpolation,
        crop=augment.eval_crop,
        orientation=augment.orientation,
        background=recipe.data.background,
        grey16=recipe.data.grey16,
        class_names=class_names,
    )


def run_images(spec: ModelSpec, run: RunDirectory, plugins: PluginRegistry, options: ExportOptions) -> ExportImages:
    """The images of `options.data`, else those of the run, else photographs if the run's cannot be read.

    Raises: UserError if `options.data` cannot be read.
    """
    recipe = run.read_recipe()
    if options.data is not None:
        return named_images(spec, plugins, options, recipe)
    try:
        return _images(
            open_datasets(recipe.data, plugins), spec, recipe, options, f"of run '{run.path.resolve().name}'"
        )
    except UserError:
        # The data may be on the machine that trained. The export then continues with a check marked as weak.
        return stand_in(spec, "the run's images cannot be read here")


def named_images(
    spec: ModelSpec, plugins: PluginRegistry, options: ExportOptions, recipe: Recipe | None = None
) -> ExportImages:
    """The images of `options.data`, preprocessed as in the evaluation of `recipe`, or with the values of `spec`.

    Raises: UserError if they cannot be read.
    """
    augment = Augment.model_validate(
        {"eval_crop": spec.crop, "interpolation": spec.interpolation, "orientation": spec.orientation}
    )
    recipe = recipe or Recipe(augment=augment)
    try:
        data = Data(
            train=options.data,
            validation=0.0,
            root=recipe.data.root,
            background=spec.background,
            grey16=spec.grey16,
        )
        sets = open_datasets(data, plugins)
    except DataError as error:  # the message starts with the recipe key; the user typed --data
        raise DataError(f"--data: {without_recipe_key(error)}") from error
    return _images(sets, spec, recipe, options, f"of '{_display_name(options.data)}'")


def _display_name(data: str | None) -> str:
    """Name of --data in a bundle: that of the data set, or of the folder without its path, which must not leak."""
    name = data or ""
    head, _, argument = name.partition(":")
    folder = argument if head == "folder" else name
    is_folder = head == "folder" or Path(name).is_dir() or Path(name).is_absolute()
    if is_folder:
        return Path(folder).resolve().name
    return f"{head}:{Path(argument).name}" if Path(argument).is_absolute() else name


def _images(sets: DataSets, spec: ModelSpec, recipe: Recipe, options: ExportOptions, whose: str) -> ExportImages:
    """Gate on held-out images if there are any, and calibrate on the training images."""
    transform = evaluation_transform(recipe.augment, spec)
    splits = {"test": sets.test, "validation": sets.validation, "training": sets.train}
    kind, source = next((kind, source) for kind, source in splits.items() if source is not None)
    places = _evenly_spaced(len(source), options.gate_limit)
    # Images of --data need not be training images, unless they come with a test or validation split.
    given = options.data is not None and source is sets.train
    trained = f"images {whose}" if given else f"training images {whose}"
    shown = trained if source is sets.train else f"{kind} images {whose}"
    gate = _image_set(source, *_readable(source, places, shown), spec, transform)
    if gate.labels is None and spec.class_names and source.class_names:
        gate = replace(gate, note=_class_mismatch_note(source.class_names, spec.class_names, shown))
    # Calibration on the gate's images would make the gate too optimistic: they are reused only if there are no others.
    used = places if source is sets.train else np.array([], np.int64)
    free = np.setdiff1d(np.arange(len(sets.train)), used)
    free = free if len(free) else np.arange(len(sets.train))
    chosen = free[_evenly_spaced(len(free), options.calibration_images or CALIBRATION_IMAGES)]
    calibration = _image_set(sets.train, *_readable(sets.train, chosen, trained), spec, transform)
    return ExportImages(gate, calibration)


def _evenly_spaced(length: int, count: int | None) -> NDArray[np.int64]:
    """`count` evenly spaced indices below `length`, because sources are often sorted by class."""
    if count is None or count >= length:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64))


def _readable(source: Source | Stream, places: NDArray[np.int64], name: str) -> tuple[NDArray[np.int64], str]:
    """Indices of the readable images, and the name of the images, which mentions how many are left out.

    Raises: DataError for the last image if none is readable.
    """
    if is_stream(source):
        return places, name
    kept, error = [], None
    for place in places.tolist():
        try:
            load_image(source, place)
        except UnreadableImageError as unreadable:
            error = unreadable
        else:
            kept.append(place)
    if error is None:
        return places, name
    if not kept:
        raise error
    return np.array(kept, np.int64), f"{name}, without {len(places) - len(kept):,} that cannot be read"


def _image_set(
    source: Source | Stream, places: NDArray[np.int64], name: str, spec: ModelSpec, transform: Transform
) -> ImageSet:
    if is_stream(source):
        read = [(transform(image).numpy(), label) for image, label in islice(read_stream(source, 0), len(places))]
        labels = np.array([UNLABELLED if label is None else label for _, label in read], np.int64)
        return ImageSet(np.stack([pixels for pixels, _ in read]), name, labels=_class_indices(labels, source, spec))
    pixels: Pixels = ReadPixels(source, places, lambda image: transform(image).numpy())
    if len(places) * len(spec.mean) * 4 * spec.image_size[0] * spec.image_size[1] <= IN_MEMORY_BYTES:
        pixels = pixels[np.arange(len(places))]
    return ImageSet(pixels, name, labels=_class_indices(labels_of(source)[places], source, spec))


def _class_indices(labels: NDArray[np.int64], source: Source | Stream, spec: ModelSpec) -> NDArray[np.int64] | None:
    """Class indices of the model for the labels [n]; None if the labels are of other classes."""
    known = labels[labels != UNLABELLED]
    if not len(known):
        return None
    numbered = numbered_outputs(spec, source.class_names) if Path(source.name).is_dir() else None
    count = len(source.class_names) if source.class_names else int(known.max()) + 1
    try:
        found = numbered or match_classes(spec, source.class_names, count, mode="auto", data=source.name)
    except ClassSpaceError:
        return None
    indices = found.indices
    return labels if indices is None else np.where(labels == UNLABELLED, UNLABELLED, np.asarray(indices)[labels])


def _class_mismatch_note(found: Sequence[str], known: Sequence[str], shown: str) -> str:
    """Note on why the accuracy of labelled images is not measured."""
    return (
        f"accuracy is not measured: the classes of {shown} ({_first_names(found)}) are not those of the model "
        f"({_first_names(known)}); give a folder for each class of the model"
    )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN_NAMES], *(["..."] if len(names) > SHOWN_NAMES else [])])


@dataclass(frozen=True)
class ReadPixels:
    """Images of a source, read and preprocessed at every access.

    Shapes: indices [B] to pixels [B, C, H, W].
    """

    source: Source
    places: NDArray[np.int64]
    prepare: Callable[..., NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([self.prepare(load_image(self.source, int(place))) for place in self.places[indices]])
