"""`distillkit export`: write a student as a file that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

TARGET = typer.Argument(metavar="TARGET", help="A run directory, or a model by name: timm:resnet18.")
OUT = typer.Option(metavar="DIR", help="Default: TARGET/export, or exports/<name> for a model by name.")
FORMAT = typer.Option("--format", metavar="NAME", help="An exporter of `distillkit plugins`.")
HEAD = typer.Option(help="The head that answers. Default: as in the run.")
FUSION = typer.Option(help="How two heads become one answer. Default: as in the run.")
OPSET = typer.Option(metavar="N", help="The ONNX operator set.")
IMAGE_SIZE = typer.Option(metavar="N|HxW", help="Pixels of the images, where not the model's own.")
DYNAMIC_SIZE = typer.Option("--dynamic-size", help="Images of any height and width.")
SOFTMAX = typer.Option("--softmax", help="Answer with probabilities.")
UINT8 = typer.Option("--uint8", help="Take pixels from 0 to 255, NHWC, and normalise them inside the file.")
WEIGHTS = typer.Option(metavar="FILE|pretrained|none", help="For a model by name.")
FORCE = typer.Option("--force", help="Replace what is there.")


def export(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    target: Annotated[str, TARGET],
    out: Annotated[Path | None, OUT] = None,
    format_name: Annotated[str, FORMAT] = "onnx",
    head: Annotated[Literal["fused", "class", "distill"] | None, HEAD] = None,
    fusion: Annotated[Literal["logits", "softmax"] | None, FUSION] = None,
    opset: Annotated[int, OPSET] = 20,
    image_size: Annotated[str | None, IMAGE_SIZE] = None,
    dynamic_size: Annotated[bool, DYNAMIC_SIZE] = False,
    softmax: Annotated[bool, SOFTMAX] = False,
    uint8: Annotated[bool, UINT8] = False,
    weights: Annotated[str | None, WEIGHTS] = None,
    force: Annotated[bool, FORCE] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a student as ONNX with a dynamic batch, and check that ONNX Runtime answers as torch does.

    A file that does not agree is kept in rejected/ and the exit code is 4.

    For example:
      distillkit export runs/deit-ti-digits-001
      distillkit export runs/soft/best --head class --out digits-onnx/ --json
    """
    from distillkit.extras import require

    require("torch", "timm", what="distillkit export")
    from distillkit.exporting import parse_image_size
    from distillkit.hooks import installed_plugins
    from distillkit_export import exports

    terminal: Terminal = context.obj
    result = exports.export(
        target,
        out,
        plugins=installed_plugins(),
        head=head,
        fusion=fusion,
        opset=opset,
        image_size=parse_image_size(image_size),
        dynamic_size=dynamic_size,
        softmax=softmax,
        uint8=uint8,
        format=format_name,
        weights=weights,
        force=force,
    )
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
