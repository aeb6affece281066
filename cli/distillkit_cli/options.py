"""The options that `run`, `plan` and `finetune` share, what they change in a recipe, and dataclasses as options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    from distillkit.recipe.schema import Recipe

RUN = "Run"
"""A panel of --help."""

SHORTER = {"settings": "--set", "from_run": "--from"}
"""The options that are not called as their fields are."""

OUT = typer.Option(metavar="DIR", help="Run directory. Default: runs/<student>-<data>-<number>.", rich_help_panel=RUN)
DRY_RUN = typer.Option("--dry-run", help="Show the plan and stop.", rich_help_panel=RUN)
JSON = typer.Option("--json", help="Print JSON.")

model_option = partial(typer.Option, rich_help_panel="Models and losses")
TEACHER = model_option(metavar="NAME", help="Teacher: regnety16gf, timm:<any>, run:<directory>.")
TEACHER_WEIGHTS = model_option(
    metavar="FILE", help="Its weights, .safetensors or weights-only .pth. Default: the published ones."
)
TEACHER_CLASSES = model_option(metavar="FILE", help="Names of its classes, one a line, in order.")
LOSS = model_option(
    metavar="NAME[:KEY=VALUE,...]",
    help="Loss, such as hard or soft:tau=2,weight=0.9; may be repeated. ce is the labels alone.",
)
STUDENT = model_option(metavar="NAME", help="Student: deit-ti, vit-s, timm:<any>. Default: the recipe's.")
FROM_RUN = model_option(
    "--from",
    metavar="RUN",
    help="Go on from a run: its recipe below all else, its last student to start from; RUN/best for its best.",
)
STUDENT_WEIGHTS = model_option(metavar="FILE|DIR|pretrained", help="Weights to start from. Default: random.")

data_option = partial(typer.Option, rich_help_panel="Data")
DATA = data_option(metavar="DIR|NAME", help="Folder of classes, digits, or timm:<data set>. Default: digits.")
VALIDATION = data_option(metavar="DIR|SHARE", help="Where the best is chosen. Default: 0.1 of the data.")
UNLABELED = data_option(metavar="DIR", help="Pictures without labels, for the teacher to comment on.")
LABELS = data_option(metavar="N", help="Keep this many labels, balanced over the classes.")
STRICT_DATA = data_option("--strict-data", help="Fail at the first image that cannot be read: data.broken=0.")

recipe_option = partial(typer.Option, rich_help_panel="Recipe")
RECIPE = recipe_option(
    metavar="NAME|FILE.toml", help="See `distillkit recipes`. Default: digits for the digits, default for a folder."
)
EPOCHS = recipe_option(metavar="N", help="Passes over the data. Default: the recipe's.")
SEED = recipe_option(metavar="N", help="Of initialisation and dropout. Default: 0.")
DEVICE = recipe_option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps. Default: auto.")
HEAD = recipe_option(help="The head that answers. Default: fused.")
FUSION = recipe_option(help="How two heads become one answer. Default: logits.")
SETTINGS = recipe_option(
    "--set", metavar="KEY=VALUE", help="Any key of the recipe, such as student.image_size=96; may be repeated."
)
SMOKE = recipe_option("--smoke", help="Only a few steps, to see that everything works.")


@dataclass(frozen=True, kw_only=True)
class TeachingOptions:
    """Who teaches whom, and by which losses."""

    teacher: Annotated[str | None, TEACHER] = None
    teacher_weights: Annotated[str | None, TEACHER_WEIGHTS] = None
    teacher_classes: Annotated[str | None, TEACHER_CLASSES] = None
    loss: Annotated[list[str] | None, LOSS] = None
    student: Annotated[str | None, STUDENT] = None
    from_run: Annotated[Path | None, FROM_RUN] = None
    student_weights: Annotated[str | None, STUDENT_WEIGHTS] = None


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Which data, for how long, and by which recipe."""

    data: Annotated[str | None, DATA] = None
    validation: Annotated[str | None, VALIDATION] = None
    unlabeled: Annotated[str | None, UNLABELED] = None
    labels: Annotated[int | None, LABELS] = None
    strict_data: Annotated[bool, STRICT_DATA] = False
    recipe: Annotated[str | None, RECIPE] = None
    epochs: Annotated[int | None, EPOCHS] = None
    seed: Annotated[int | None, SEED] = None
    device: Annotated[str | None, DEVICE] = None
    head: Annotated[Literal["fused", "class", "distill"] | None, HEAD] = None
    fusion: Annotated[Literal["logits", "softmax"] | None, FUSION] = None
    settings: Annotated[list[str] | None, SETTINGS] = None
    smoke: Annotated[bool, SMOKE] = False

    def resolved(self, teaching: TeachingOptions) -> Recipe:
        """The recipe that these options ask for.

        Raises: RecipeError with everything that is wrong.
        """
        from distillkit.recipe.files import load_recipe

        options = vars(teaching) | vars(self)
        options |= {"teacher": teaching.teacher or None, "loss": teaching.loss or None}
        options["validation"] = _share_or_name(self.validation)
        return load_recipe(assignments=options.pop("settings") or (), **options)


def given_options(*groups: Any) -> list[str]:
    """The options of these groups that were given, as they are typed."""
    values = [(field.name, getattr(group, field.name)) for group in groups for field in fields(group)]
    names = [name for name, value in values if value is not None and value is not False and value != []]
    return [SHORTER.get(name, f"--{name.replace('_', '-')}") for name in names]


def flattened(function: Callable[..., None]) -> Callable[..., None]:
    """Let typer see the fields of every parameter that is a dataclass as options of their own.

    A field is an option where its type is annotated with one, or where its metadata has the help of one.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        parameters += _parameters(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]

    @wraps(function)
    def verb(**given: Any) -> None:
        values = {name: _filled(group, given) for name, group in groups.items()}
        function(**given, **values)

    verb.__signature__ = inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))  # type: ignore[attr-defined]
    return verb


def typer_option(group: Any, name: str) -> Any:
    """The option of a field whose metadata has the help."""
    metadata = group.__dataclass_fields__[name].metadata
    shown: dict[str, Any] = {key: metadata.get(key) for key in ("help", "rich_help_panel", "metavar", "min")}
    return typer.Option(metadata.get("flag", f"--{name.replace('_', '-')}"), **shown)


def _parameters(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass that are options, as parameters for typer.

    Where the metadata of a field has a function `parse`, the option is of the type that this takes.
    """
    hints = get_type_hints(group, include_extras=True)
    parameters = []
    for field in fields(group):
        hint = hints[field.name]
        if "parse" in field.metadata:
            hint = next(iter(get_type_hints(field.metadata["parse"]).values()))
        if "help" in field.metadata:
            hint = Annotated[hint, typer_option(group, field.name)]
        if get_origin(hint) is Annotated:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, kind, default=field.default, annotation=hint))
    return parameters


def _filled(group: Any, given: dict[str, Any]) -> Any:
    """The dataclass with its options taken out of `given`, each parsed."""
    values = {}
    for field in fields(group):
        if field.name in given:
            parse = field.metadata.get("parse")
            value = given.pop(field.name)
            values[field.name] = parse(value) if parse else value
    return group(**values)


def _share_or_name(text: str | None) -> float | str | None:
    """`--validation` takes a share of the training images or the name of a folder."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
