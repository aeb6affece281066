"""`distillkit evaluate`: how good a student is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

TARGET = typer.Argument(metavar="TARGET", help="A run directory, a folder in it such as RUN/best, or a teacher's name.")
DATA = typer.Option(metavar="DIR|NAME", help="Other images than those of the run. Default: the run's own.")
SPLIT = typer.Option(help="Which part of the data. Default: test where there is one, else validation.")
WEIGHTS = typer.Option(metavar="FILE", help="Weights of a teacher. Default: the published ones.")
HEAD = typer.Option(help="The head that answers. Default: as in the run.")
FUSION = typer.Option(help="How two heads become one answer. Default: as in the run.")
DEVICE = typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")


def evaluate(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    target: Annotated[str, TARGET],
    data: Annotated[str | None, DATA] = None,
    split: Annotated[Literal["train", "validation", "test"] | None, SPLIT] = None,
    weights: Annotated[str | None, WEIGHTS] = None,
    head: Annotated[Literal["fused", "class", "distill"] | None, HEAD] = None,
    fusion: Annotated[Literal["logits", "softmax"] | None, FUSION] = None,
    device: Annotated[str, DEVICE] = "auto",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure the top-1 accuracy of a student or a teacher: of its answer, and of each of its heads.

    A student is measured on the data of its run, a teacher on --data.

    For example:
      distillkit evaluate runs/deit-ti-digits-001
      distillkit evaluate runs/soft/best --split validation --head class
      distillkit evaluate timm:resnet50 --data imagenet/ --json
    """
    from distillkit.extras import require

    require("torch", "timm", what="distillkit evaluate")
    from distillkit import runner
    from distillkit.hooks import installed_plugins
    from distillkit_cli.figures import figure_rows

    terminal: Terminal = context.obj
    figures = runner.evaluate(
        target,
        installed_plugins(),
        data=data,
        split=split,
        weights=weights,
        head=head,
        fusion=fusion,
        device=device,
    )
    if as_json:
        terminal.show_json(figures)
    else:
        terminal.show_rows(figure_rows(figures))
