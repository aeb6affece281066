"""`distillkit attention`: where a model's class token looks, beside its teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillkit.errors import UserError
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.contracts.model import Layers

TARGET = typer.Argument(metavar="TARGET", help="A run directory, a folder in it such as RUN/best, or a teacher's name.")
IMAGES = typer.Argument(metavar="IMAGE", help="Pictures; each is seen as in evaluation.")
TEACHER = typer.Option(metavar="NAME", help="Beside which teacher. Default: that of the run.")
TEACHER_WEIGHTS = typer.Option(metavar="FILE", help="The weights of --teacher. Default: the published ones.")
NO_TEACHER = typer.Option("--no-teacher", help="The model alone.")
LAYERS = typer.Option(metavar="all|last|N,N,...", help="Layers of the model, from 0; a teacher's are matched.")
HEADS = typer.Option(help="The mean of the heads, or a row for each.")
OUT = typer.Option(metavar="DIR", help="Default: RUN/attention, or attention/ for a model by name.")
WEIGHTS = typer.Option(metavar="FILE", help="Weights of a model by name. Default: the published ones.")
DEVICE = typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")


def attention(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    target: Annotated[str, TARGET],
    images: Annotated[list[Path], IMAGES],
    teacher: Annotated[str | None, TEACHER] = None,
    teacher_weights: Annotated[str | None, TEACHER_WEIGHTS] = None,
    no_teacher: Annotated[bool, NO_TEACHER] = False,
    layers: Annotated[str, LAYERS] = "all",
    heads: Annotated[Literal["mean", "each"], HEADS] = "mean",
    out: Annotated[Path | None, OUT] = None,
    weights: Annotated[str | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Draw where the class token looks, layer by layer, over pictures; the teacher above the student.

    A teacher of the run that cannot be drawn is left out, and a line says why.

    For example:
      distillkit attention runs/advit cat.jpg dog.jpg
      distillkit attention dino-vits8 cat.jpg --layers last --heads each
      distillkit attention vit-b cat.jpg --teacher dino-vitb16
    """
    from distillkit.plugin.extras import require
    from distillkit.recipe.schema import TeacherEntry

    if no_teacher and teacher:
        raise UserError("give --teacher or --no-teacher, not both")
    if teacher_weights and not teacher:
        raise UserError("--teacher-weights is given without --teacher; name that teacher, too")
    chosen = _layers(layers)
    require("torch", "timm", "matplotlib", what="distillkit attention")
    from distillkit.evaluation.attention_files import draw_files
    from distillkit.plugin.registry import installed_plugins

    drawn = draw_files(
        target,
        images,
        installed_plugins(),
        weights=weights,
        teacher=TeacherEntry(model=teacher, weights=teacher_weights) if teacher else None,
        without_teacher=no_teacher,
        layers=chosen,
        heads=heads,
        out=out,
        device=device,
    )
    terminal: Terminal = context.obj
    for path in drawn.pictures:
        terminal.show(str(path))
    for note in drawn.notes:
        terminal.note(note)


def _layers(text: str) -> Layers:
    if text == "all":
        return "all"
    if text == "last":
        return "last"
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--layers is '{text}'; give all, last, or numbers such as 0,5,11") from None
