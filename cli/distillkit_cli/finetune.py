"""`distillkit finetune`: train a teacher for your own classes, as `distillkit run --loss ce` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from distillkit.messages.text import command
from distillkit_cli.options import ModelOptions, RecipeOptions, StartOptions, data_option, flattened
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry
    from distillkit.recipe.schema import Recipe

MODEL = typer.Argument(metavar="MODEL", help="A student or a teacher: timm:resnet50, deit-s, regnety16gf.")
WEIGHTS = typer.Option(metavar="FILE|DIR|pretrained|none", help="Weights to start from. Default: pretrained.")
UNLABELED = data_option(metavar="DIR", help="Ignored: finetune trains on labels alone.")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RecipeOptions):
    """Data, length and recipe of a run without a teacher."""

    unlabeled: Annotated[str | None, UNLABELED] = None


@flattened
def finetune(
    context: typer.Context,
    *,
    model: Annotated[str | None, MODEL] = None,
    weights: Annotated[str | None, WEIGHTS] = None,
    recipe: FinetuneOptions,
    start: StartOptions,
) -> None:
    """Train a model on labels alone, from pretrained weights: a teacher for your own classes.

    Short for `distillkit run --loss ce --student MODEL --student-weights WEIGHTS`.

    Use the result as a teacher with --teacher run:DIR. To resume: --resume DIR, without MODEL.

    For example:
      distillkit finetune regnety16gf --data flowers/ --out runs/teacher
      distillkit finetune timm:resnet18 --weights resnet18.pth --data flowers/
    """
    from distillkit_cli import starting

    terminal: Terminal = context.obj
    if model is None and start.resume is None:
        context.fail("Missing argument 'MODEL'.")
    given = ["MODEL"] * (model is not None) + ["--weights"] * (weights is not None)

    def resolved() -> Recipe:
        student = _student_name(str(model))
        return recipe.resolved(ModelOptions(loss=["ce"], student=student, student_weights=weights or "pretrained"))

    starting.start_command(terminal, start, recipe, given, resolved)


def _student_name(model: str) -> str:
    """The student for `model`; a teacher's name stands for the student of the same architecture."""
    from distillkit.errors import UnknownPluginError
    from distillkit.messages.nearest_name import unknown_name
    from distillkit.plugin.registry import installed_plugins, split_name

    plugins = installed_plugins()
    students = {plugin.spec.name for plugin in plugins.listing("student")}
    teachers = {plugin.spec.name for plugin in plugins.listing("teacher")}
    name, _ = split_name(model)
    if name not in students | teachers:
        known = {plugin.spec.shown_name for role in ("student", "teacher") for plugin in plugins.listing(role)}
        raise UnknownPluginError(unknown_name("model", model, sorted(known)))
    return _as_student(model, plugins) if name in teachers - students else model


def _as_student(teacher: str, plugins: PluginRegistry) -> str:
    """The timm student with the architecture of a teacher.

    Raises: UnknownPluginError if there is no such student.
    """
    from distillkit.contracts.model import ModelRequest
    from distillkit.errors import UnknownPluginError
    from distillkit.plugin.extras import require
    from distillkit.plugin.registry import split_name

    name, argument = split_name(teacher)
    if argument is not None:
        raise UnknownPluginError(
            f"'{name}' is a teacher and not a student, so '{teacher}' cannot be fine-tuned by that name; "
            f"to start from a run: {command('distillkit', 'run', '--loss', 'ce', '--from', argument)}"
        )
    require("torch", "timm", what="distillkit finetune")
    import timm

    from distillkit.models.build import describe_model

    plugin = plugins.find("teacher", teacher)
    request = ModelRequest(plugin.name, None, plugin.options({}), weights="none")
    architecture = describe_model(plugin, request).architecture
    if not timm.is_model(architecture.partition(".")[0]):
        raise UnknownPluginError(
            f"teacher '{teacher}' is not a timm model, so no student has its architecture; "
            "fine-tune a student instead, such as timm:resnet18"
        )
    return f"timm:{architecture}"
