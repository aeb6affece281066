"""`distillkit evaluate`: the accuracy of a finished run, one of its students, or any teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from distillkit.contracts import ModelRequest, ModelSpec, Outputs, Wanted
from distillkit.data.datasets import DataSets, open_datasets
from distillkit.data.evaluation import EvaluationData
from distillkit.devices import pick_device, pick_precision
from distillkit.errors import ClassSpaceError, DataError, RunDirectoryError
from distillkit.evaluation.top1 import top1
from distillkit.hooks import Plugins, split_name
from distillkit.models.classes import ClassMap, match_classes
from distillkit.models.heads import Answer, check_head
from distillkit.models.saved_student import load_student
from distillkit.recipe import Recipe
from distillkit.recipe_files import load_recipe

Split = Literal["train", "validation", "test"]


def evaluate(  # noqa: PLR0913 - one parameter per option of the verb
    target: str,
    plugins: Plugins,
    *,
    data: str | None = None,
    split: Split | None = None,
    weights: str | None = None,
    head: str | None = None,
    fusion: str | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """Measure top-1 accuracy: the figures of `distillkit.evaluation.top1` as `<split>/<figure>`, in percent.

    `target` is a run directory, a directory inside it with a student (best, ema), or a teacher's name. `data` is a
    folder or name, by default the data of the run. `split` is by default the test images where there are any.
    `weights` is a weight file for a teacher.
    Raises: RunDirectoryError for a target that is neither; DataError where the data lacks the split or labels;
        ClassSpaceError where the model's classes are others.
    """
    where = pick_device(device)
    found = _open(Path(target), target, plugins, weights)
    check_head(head, found.spec, found.answer, subject=f"'{target}'")
    datasets, recipe = _open_data(found.recipe, data, plugins)
    chosen: Split = split or ("test" if datasets.test is not None else "validation")
    source = {"train": datasets.train, "validation": datasets.validation, "test": datasets.test}[chosen]
    if source is None or datasets.classes is None:
        raise DataError(
            f"'{datasets.train.name}' has no labelled {chosen} images; give --data with some, or another --split"
        )
    batches = EvaluationData(
        source,
        found.spec,
        recipe.augment,
        batch_size=recipe.evaluation.batch_size,
        workers=recipe.data.workers,
        device=where,
    )
    figures = top1(
        _Mapped(found.model, _class_map(target, found.spec, datasets)).to(where).eval(),
        found.spec,
        batches,
        replace(found.answer, head=head or found.answer.head, fusion=fusion or found.answer.fusion),
        precision=pick_precision(recipe.training.precision, where),
    )
    return {f"{chosen}/{name}": value for name, value in figures.items()}


@dataclass(frozen=True)
class _Found:
    """A model, the recipe that says how to look at images, and the answer it was saved with."""

    model: nn.Module
    spec: ModelSpec
    recipe: Recipe
    answer: Answer


def _open(path: Path, target: str, plugins: Plugins, weights: str | None) -> _Found:
    """The saved student in a directory, or a teacher by name."""
    if (path / "student.json").is_file():
        model, saved = load_student(path, plugins)
        home = path if (path / "recipe.toml").is_file() else path.parent
        recipe = load_recipe(str(home / "recipe.toml")) if (home / "recipe.toml").is_file() else Recipe()
        return _Found(cast("nn.Module", model), model.spec, recipe, saved.answer)
    known = {owned.spec.name: owned.spec.shown_name for owned in plugins.listing("teacher")}
    name, argument = split_name(target)
    if name not in known:
        raise RunDirectoryError(
            f"'{target}' is neither a run directory (with student.json) nor a teacher; "
            f"teachers: {', '.join(known.values())}"
        )
    options = plugins.options("teacher", target, {})
    model = plugins.factory("teacher", target).build(ModelRequest(target, argument, options, weights=weights))
    return _Found(model, model.spec, Recipe.model_validate({"augment": {"eval_crop": model.spec.crop}}), Answer())


def _open_data(recipe: Recipe, data: str | None, plugins: Plugins) -> tuple[DataSets, Recipe]:
    """The data of the run, or other data, with all of its labels."""
    changes = {"labels": None} if data is None else {"labels": None, "train": data, "unlabeled": None}
    table = recipe.data.model_copy(update=changes)
    try:
        return open_datasets(table, plugins), recipe
    except DataError as error:
        if data is not None or recipe.data.train is None:
            raise
        raise DataError(
            f"{error}; this is the run's own data, named from the folder in which the run was started: "
            "go there, or give --data"
        ) from None


def _class_map(target: str, spec: ModelSpec, datasets: DataSets) -> ClassMap:
    """Which of the model's outputs are the data's classes."""
    classes, names = datasets.classes or 0, datasets.class_names
    try:
        return match_classes(spec, names, classes, mode="auto", data=datasets.train.name)
    except ClassSpaceError:
        raise ClassSpaceError(
            f"'{target}' answers in {_listed(spec.classes, spec.class_names)} and '{datasets.train.name}' has "
            f"{_listed(classes, names)}; give --data with classes that it knows"
        ) from None


def _listed(classes: int, names: tuple[str, ...] | None) -> str:
    shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{classes:,} classes{shown}"


class _Mapped(nn.Module):
    """A model whose heads answer in the classes of the data."""

    def __init__(self, model: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.model = model
        self.indices = class_map.indices

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        outputs: Outputs = self.model(images, wanted)
        if self.indices is None:
            return outputs
        return replace(
            outputs, logits=self._select(outputs.logits), distill_logits=self._select(outputs.distill_logits)
        )

    def _select(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits[:, torch.as_tensor(self.indices, device=logits.device)]
