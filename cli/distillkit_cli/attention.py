"""`distillkit attention`: draw the CLS attention of a model and of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillkit.errors import UserError
from distillkit_cli.default_target import DEFAULT, run_and_images
from distillkit_cli.options import CHECKPOINT
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.contracts.model import Layers

IMAGES = typer.Argument(
    metavar="[TARGET] IMAGE",
    help="A run directory, a folder in it such as RUN/best, or a teacher's name, then image files, preprocessed as in "
    f"evaluation. {DEFAULT}",
)
TEACHER = typer.Option(metavar="NAME", help="Teacher to draw above the model. Default: the run's teacher.")
TEACHER_WEIGHTS = typer.Option(metavar="FILE", help="Weights of --teacher. Default: the published ones.")
NO_TEACHER = typer.Option("--no-teacher", help="Draw the model alone.")
LAYERS = typer.Option(
    metavar="all|last|N,N,...", help="Layers of the model, counted from 0. The teacher's layers are matched to them."
)
HEADS = typer.Option(help="Draw the mean over heads, or one row per head.")
OUT = typer.Option(
    metavar="DIR", help="Folder for the figures. Default: RUN/attention, or attention/ for a model by name."
)
WEIGHTS = typer.Option(metavar="FILE", help="Weights of a model given by name. Default: the published ones.")
DEVICE = typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")


def attention(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    arguments: Annotated[list[str], IMAGES],
    teacher: Annotated[str | None, TEACHER] = None,
    teacher_weights: Annotated[str | None, TEACHER_WEIGHTS] = None,
    no_teacher: Annotated[bool, NO_TEACHER] = False,
    layers: Annotated[str, LAYERS] = "all",
    heads: Annotated[Literal["mean", "each"], HEADS] = "mean",
    out: Annotated[Path | None, OUT] = None,
    checkpoint: Annotated[str | None, CHECKPOINT] = None,
    weights: Annotated[str | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Draw the CLS attention of each layer over images, the teacher above the student.

    If the run's teacher cannot be drawn, it is left out with a note.

    For example:
      distillkit attention cat.jpg dog.jpg
      distillkit attention dino-vits8 cat.jpg --layers last --heads each
      distillkit attention vit-b cat.jpg --teacher dino-vitb16
    """
    from distillkit.data.image_folders import require_image_file
    from distillkit.plugin.extras import require
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.schema import TeacherEntry
    from distillkit.running.target import student_folder

    if no_teacher and teacher:
        raise UserError("give --teacher or --no-teacher, not both")
    if teacher_weights and not teacher:
        raise UserError("--teacher-weights needs --teacher; add --teacher NAME")
    chosen, plugins = _layers(layers), installed_plugins()
    terminal: Terminal = context.obj
    target, images = run_and_images(arguments, terminal)
    student_folder(target, plugins, checkpoint, weights)  # for its errors, before torch is imported
    for image in images:
        require_image_file(image)
    require("torch", "timm", "matplotlib", what="distillkit attention")
    from distillkit.evaluation.attention_files import draw_files

    drawn = draw_files(
        target,
        images,
        plugins,
        checkpoint=checkpoint,
        weights=weights,
        teacher=TeacherEntry(model=teacher, weights=teacher_weights) if teacher else None,
        without_teacher=no_teacher,
        layers=chosen,
        heads=heads,
        out=out,
        device=device,
    )
    for path in drawn.figures:
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
