"""`distillkit verify`: whether a bundle is whole and answers here as the student does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit_cli.options import JSON, typer_option
from distillkit_cli.terminal import Terminal
from distillkit_export.export_options import ExportOptions, Tolerance, most_images, parse_gate_images

BUNDLE = typer.Argument(metavar="BUNDLE", help="A folder that `distillkit export` wrote.")
DATA = typer.Option(metavar="DIR", help="Labelled images, a folder per class, to measure accuracy on.")
GATE_IMAGES = typer_option(ExportOptions, "gate_images")
TOLERANCE = typer.Option(help="How far files may be from torch.")


def verify(
    context: typer.Context,
    *,
    bundle: Annotated[Path, BUNDLE],
    data: Annotated[Path | None, DATA] = None,
    images: Annotated[str | None, GATE_IMAGES] = None,
    tolerance: Annotated[Tolerance, TOLERANCE] = "default",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Check a bundle where it will serve: every file is the one exported, and answers as the student did. No torch.

    The exit code is 2 for a bundle that was altered, 3 where nothing here executes one of its files, 4 where a file
    fails its gate.

    For example:
      distillkit verify digits-onnx/
      distillkit verify digits-onnx/ --data imagenet/val --json
    """
    from distillkit.plugin.registry import installed_plugins
    from distillkit_export.pipeline.verify import verify as verified

    count = most_images(parse_gate_images(images))
    result = verified(bundle, plugins=installed_plugins(), data=data, images=count, tolerance=tolerance)
    terminal: Terminal = context.obj
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
    result.require()
