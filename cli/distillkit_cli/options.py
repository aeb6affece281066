"""Options that `run`, `plan` and `finetune` share, and options taken from the fields of a dataclass."""

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

OPTION_NAMES = {"settings": "--set", "from_run": "--from"}
"""Options that are not named like their fields."""

OUT = typer.Option(
    metavar="DIR",
    help="Run directory. Default: a folder in runs/, named by student, data, losses, seed and number.",
    rich_help_panel=RUN,
)
RESUME = typer.Option(
    metavar="DIR",
    help="Continue the run in DIR from its newest checkpoint; --set may change data.workers and a few others.",
    rich_help_panel=RUN,
)
AUTO_RESUME = typer.Option(
    "--auto-resume",
    help="Start the run in --out, or continue it if it exists; for schedulers that requeue jobs.",
    rich_help_panel=RUN,
)
NPROC = typer.Option(
    "--nproc", metavar="N", min=1, help="Train with N processes on this machine, one per GPU.", rich_help_panel=RUN
)
DRY_RUN = typer.Option("--dry-run", help="Show the plan and exit.", rich_help_panel=RUN)
JSON = typer.Option("--json", help="Print JSON.")
CHECKPOINT = typer.Option(
    metavar="last|best|ema|STEP", help="Student of a run: last, best, ema, or the step of a checkpoint. Default: last."
)

model_option = partial(typer.Option, rich_help_panel="Models and losses")
TEACHER = model_option(metavar="NAME", help="Teacher, such as regnety16gf, timm:<model> or run:<directory>.")
TEACHER_WEIGHTS = model_option(
    metavar="FILE|none",
    help="Teacher weights, .safetensors or weights-only .pth, or none for random ones. Default: the published ones.",
)
TEACHER_CLASSES = model_option(
    metavar="FILE", help="Class names of the teacher, one per line, in the order of its outputs."
)
LOSS = model_option(
    metavar="NAME[:KEY=VALUE,...]",
    help="Loss, such as hard or soft:tau=2,weight=0.9; may be repeated. ce trains on labels alone.",
)
STUDENT = model_option(metavar="NAME", help="Student, such as deit-ti, vit-s or timm:<model>. Default: the recipe's.")
FROM_RUN = model_option(
    "--from",
    metavar="RUN",
    help="Start from a finished run: inherit its recipe and final weights, or its best weights with RUN/best.",
)
STUDENT_WEIGHTS = model_option(metavar="FILE|DIR|pretrained", help="Initial weights of the student. Default: random.")

data_option = partial(typer.Option, rich_help_panel="Data")
DATA = data_option(
    metavar="DIR|NAME",
    help="Folder with one subfolder per class, timm:<data set>, digits or imagenette. Default: that of the teacher, "
    "else digits.",
)
VALIDATION = data_option(
    metavar="DIR|SHARE", help="Validation images, or the share of --data to hold out. Default: 0.1."
)
UNLABELED = data_option(metavar="DIR", help="Unlabelled images; the teacher provides their targets.")
LABELS = data_option(metavar="N", help="Keep N labels, balanced over the classes; other images become unlabelled.")
BANK = data_option(
    metavar="DIR", help="Target bank: read the teacher's targets from DIR, and store those that are missing."
)
STRICT_DATA = data_option("--strict-data", help="Fail at the first unreadable image (data.broken=0).")

recipe_option = partial(typer.Option, rich_help_panel="Recipe")
RECIPE = recipe_option(
    metavar="NAME|FILE.toml",
    help="Recipe name (see `distillkit recipes`) or file. Default: digits or imagenette for that data, else default.",
)
EPOCHS = recipe_option(metavar="N", help="Passes over the data. Default: the recipe's.")
SEED = recipe_option(metavar="N", help="Seed of initialisation and dropout. Default: 0.")
DEVICE = recipe_option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps. Default: auto.")
HEAD = recipe_option(help="Head used for predictions. Default: fused.")
FUSION = recipe_option(help="How to fuse two heads. Default: logits.")
SETTINGS = recipe_option(
    "--set", metavar="KEY=VALUE", help="Set any recipe key, such as student.image_size=96; may be repeated."
)
SMOKE = recipe_option("--smoke", help="Train a few steps only, to check that everything works.")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Teacher, student and losses."""

    teacher: Annotated[str | None, TEACHER] = None
    teacher_weights: Annotated[str | None, TEACHER_WEIGHTS] = None
    teacher_classes: Annotated[str | None, TEACHER_CLASSES] = None
    loss: Annotated[list[str] | None, LOSS] = None
    student: Annotated[str | None, STUDENT] = None
    from_run: Annotated[Path | None, FROM_RUN] = None
    student_weights: Annotated[str | None, STUDENT_WEIGHTS] = None


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Where and how a run starts or continues."""

    out: Annotated[Path | None, OUT] = None
    resume: Annotated[Path | None, RESUME] = None
    auto_resume: Annotated[bool, AUTO_RESUME] = False
    nproc: Annotated[int, NPROC] = 1
    dry_run: Annotated[bool, DRY_RUN] = False


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Data, length and recipe of a run."""

    data: Annotated[str | None, DATA] = None
    validation: Annotated[str | None, VALIDATION] = None
    unlabeled: Annotated[str | None, UNLABELED] = None
    labels: Annotated[int | None, LABELS] = None
    bank: Annotated[str | None, BANK] = None
    strict_data: Annotated[bool, STRICT_DATA] = False
    recipe: Annotated[str | None, RECIPE] = None
    epochs: Annotated[int | None, EPOCHS] = None
    seed: Annotated[int | None, SEED] = None
    device: Annotated[str | None, DEVICE] = None
    head: Annotated[Literal["fused", "class", "distill"] | None, HEAD] = None
    fusion: Annotated[Literal["logits", "softmax"] | None, FUSION] = None
    settings: Annotated[list[str] | None, SETTINGS] = None
    smoke: Annotated[bool, SMOKE] = False

    def resolved(self, models: ModelOptions) -> Recipe:
        """The recipe with these options applied.

        Raises: RecipeError with every error.
        """
        from distillkit.recipe.files import load_recipe

        return load_recipe(**self.for_load_recipe(models))

    def for_load_recipe(self, models: ModelOptions) -> dict[str, Any]:
        """These options, as those of `load_recipe`."""
        options = vars(models) | vars(self)
        options |= {"teacher": models.teacher or None, "loss": models.loss or None}
        options["validation"] = share_or_name(self.validation)
        options["assignments"] = options.pop("settings") or ()
        return options


def given_options(*groups: Any) -> list[str]:
    """The options of these groups that were given, spelled as on the command line."""
    values = [(field.name, getattr(group, field.name)) for group in groups for field in fields(group)]
    # 0 counts as given: it is a valid seed.
    names = [name for name, value in values if value is not None and value is not False and value != []]
    return [OPTION_NAMES.get(name, f"--{name.replace('_', '-')}") for name in names]


def flattened(function: Callable[..., None]) -> Callable[..., None]:
    """Make every field of a dataclass parameter an option for typer.

    A field is an option if its type is annotated with one, or if its metadata has a help text.
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

    # A signature must list positional parameters first.
    verb.__signature__ = inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))  # type: ignore[attr-defined]
    return verb


def typer_option(group: Any, name: str) -> Any:
    """The option for a field whose metadata has a help text."""
    metadata = group.__dataclass_fields__[name].metadata
    shown: dict[str, Any] = {key: metadata.get(key) for key in ("help", "rich_help_panel", "metavar", "min", "max")}
    return typer.Option(metadata.get("flag", f"--{name.replace('_', '-')}"), **shown)


def _parameters(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass that are options, as parameters for typer.

    If the metadata of a field has a function `parse`, the option has the type of that function's parameter.
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
    """The dataclass built from its options, which are removed from `given` and parsed."""
    values = {}
    for field in fields(group):
        if field.name in given:
            parse = field.metadata.get("parse")
            value = given.pop(field.name)
            values[field.name] = parse(value) if parse else value
    return group(**values)


def share_or_name(text: str | None) -> float | str | None:
    """`--validation` is a share of the training images or a folder."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
