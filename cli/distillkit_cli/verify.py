"""`distillkit verify`: check that a bundle is intact and gives the student's answers on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.errors import UserError
from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal
from distillkit_export.export_options import Tolerance, most_images, parse_gate_images

COMPARISON = "Comparison"
"""A panel of --help."""

BUNDLE = typer.Argument(metavar="BUNDLE", help="A folder that `distillkit export` wrote.")
DATA = typer.Option(metavar="DIR", help="Labelled images, one folder per class, to measure accuracy on.")
GATE_IMAGES = typer.Option(
    "--gate-images", metavar="N|all", help="Number of images of --data. Default: 1000.", rich_help_panel=COMPARISON
)
TOLERANCE = typer.Option(help="Limits on the difference from torch.", rich_help_panel=COMPARISON)


def verify(
    context: typer.Context,
    *,
    bundle: Annotated[Path, BUNDLE],
    data: Annotated[Path | None, DATA] = None,
    images: Annotated[str | None, GATE_IMAGES] = None,
    tolerance: Annotated[Tolerance, TOLERANCE] = "default",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Check a bundle on the machine that will serve it. torch is not needed.

    Every file must match its SHA-256, and its outputs must match those of the student.

    Exit codes: 2 the bundle was altered, 3 no runtime here executes one of its files, 4 a file fails the comparison.

    For example:
      distillkit verify digits-onnx/
      distillkit verify digits-onnx/ --data imagenet/val --json
    """
    from distillkit.plugin.registry import installed_plugins
    from distillkit_export.pipeline.verify import verify as verify_bundle

    if images is not None and data is None:
        raise UserError("--gate-images is the number of images of --data; add --data DIR")
    count = most_images(parse_gate_images(images))
    result = verify_bundle(bundle, plugins=installed_plugins(), data=data, images=count, tolerance=tolerance)
    terminal: Terminal = context.obj
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
    result.require()
