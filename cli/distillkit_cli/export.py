"""`distillkit export`: write a student as ONNX and in other formats."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from distillkit_cli.default_target import DEFAULT, run_or_its_bundle
from distillkit_cli.options import JSON, flattened
from distillkit_cli.progress import show_build_step
from distillkit_cli.terminal import Terminal
from distillkit_export.export_options import ExportOptions

TARGET = typer.Argument(
    metavar="TARGET",
    help="A run directory, RUN/best, one of RUN/checkpoints, a model by name (timm:resnet18), or a bundle. "
    f"{DEFAULT} Its bundle, if it has one and other formats than ONNX are added.",
)
OUT = typer.Option(metavar="DIR", help="Bundle folder. Default: TARGET/export, or exports/<name> for a model by name.")


@flattened
def export(
    context: typer.Context,
    *,
    target: Annotated[str | None, TARGET] = None,
    out: Annotated[Path | None, OUT] = None,
    options: ExportOptions,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export a student to ONNX in every chosen precision, and compare each file with PyTorch on real images.

    A file that fails the comparison goes to rejected/ (exit code 4). What cannot be built here is pending, with the
    command that finishes it on the target machine; what cannot be executed here is ungated (exit code 3 for both).

    If TARGET is a bundle, other formats are added to it in place.

    For example:
      distillkit export --trt
      distillkit export runs/soft/best --fp16 --int8 --out digits-onnx/
      distillkit export runs/deit-ti-digits-ce-seed0-001 --trt --batch 1:8:64
    """
    from distillkit_export import export as export_model

    terminal: Terminal = context.obj
    extends = bool(options.exporters) and out is None and not options.changed(student_only=True)
    target = run_or_its_bundle(target, terminal, extends=extends)
    with closing(terminal.progress(first_line_s=0)) as display:
        options = replace(options, progress=partial(show_build_step, display))
        result = export_model(target, out, options)
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
    result.require()
