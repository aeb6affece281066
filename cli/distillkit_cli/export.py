"""`distillkit export`: write a student as files that run elsewhere."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from distillkit_cli.options import JSON, flattened
from distillkit_cli.progress import show_build_step
from distillkit_cli.terminal import Terminal
from distillkit_export.export_options import ExportOptions

TARGET = typer.Argument(
    metavar="TARGET",
    help="A run directory, RUN/best, one of RUN/checkpoints, a model by name (timm:resnet18), or a bundle.",
)
OUT = typer.Option(metavar="DIR", help="Default: TARGET/export, or exports/<name> for a model by name.")


@flattened
def export(
    context: typer.Context,
    *,
    target: Annotated[str, TARGET],
    out: Annotated[Path | None, OUT] = None,
    options: ExportOptions,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a student as ONNX, in every precision asked for, each held against torch on real images.

    What fails its gate lies in rejected/, and the exit code is 4. What cannot be executed or made on this machine is
    marked, the command that finishes it on the target is printed, and the exit code is 3. Of a bundle, formats beside
    ONNX are made on the spot.

    For example:
      distillkit export runs/deit-ti-digits-001 --fp16 --int8
      distillkit export runs/soft/best --head class --out digits-onnx/ --json
      distillkit export runs/deit-ti-digits-001 --trt --fp16 --batch 1:8:64
    """
    from distillkit_export import export as exported

    terminal: Terminal = context.obj
    with closing(terminal.progress(first_line_s=0)) as display:
        options = replace(options, progress=partial(show_build_step, display))
        result = exported(target, out, options)
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
    result.require()
