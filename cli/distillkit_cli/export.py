"""`distillkit export`: write a student as files that run elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from distillkit_cli.engine_options import FORMAT as ENGINE
from distillkit_cli.engine_options import EngineOptions
from distillkit_cli.options import JSON, flattened
from distillkit_cli.progress import show_build_step
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Precision

PRECISION, GATE, GRAPH = "Precisions and formats", "Gate and calibration", "The graph"
"""The panels of --help."""

TARGET = typer.Argument(
    metavar="TARGET",
    help="A run directory, RUN/best, one of RUN/checkpoints, a model by name (timm:resnet18), or a bundle.",
)
OUT = typer.Option(metavar="DIR", help="Default: TARGET/export, or exports/<name> for a model by name.")
FORMAT = typer.Option(
    "--format",
    metavar="NAME",
    help="An exporter of `distillkit plugins`, beside ONNX; may be repeated.",
    rich_help_panel=PRECISION,
)
FP16 = typer.Option("--fp16", help="Also in float16.", rich_help_panel=PRECISION)
BF16 = typer.Option("--bf16", help="Also in bfloat16.", rich_help_panel=PRECISION)
INT8 = typer.Option("--int8", help="Also in INT8, by explicit Q/DQ.", rich_help_panel=PRECISION)
FP8 = typer.Option("--fp8", help="Also in FP8 (E4M3), by explicit Q/DQ.", rich_help_panel=PRECISION)
SET = typer.Option(
    "--set", metavar="EXPORTER.KEY=VALUE", help="An option of an exporter; may be repeated.", rich_help_panel=PRECISION
)
DATA = typer.Option(
    metavar="DIR|NAME", help="Images to calibrate and gate with. Default: the run's own.", rich_help_panel=GATE
)
GATE_IMAGES = typer.Option(
    "--gate-images", metavar="N|all", help="How many images the gate looks at.", rich_help_panel=GATE
)
CALIBRATION_IMAGES = typer.Option(
    metavar="N", min=1, help="How many images ranges are taken from.", rich_help_panel=GATE
)
CALIBRATOR = typer.Option(help="How INT8 ranges are found. Default: minmax.", rich_help_panel=GATE)
TOLERANCE = typer.Option(help="How far files may be from torch.", rich_help_panel=GATE)
HEAD = typer.Option(help="The head that answers. Default: as in the run.", rich_help_panel=GRAPH)
FUSION = typer.Option(help="How two heads become one answer. Default: as in the run.", rich_help_panel=GRAPH)
OPSET = typer.Option(metavar="N", help="The ONNX operator set. Default: 20; 22 with --bf16.", rich_help_panel=GRAPH)
IMAGE_SIZE = typer.Option(
    metavar="N|HxW", help="Pixels of the images, where not the model's own.", rich_help_panel=GRAPH
)
DYNAMIC_SIZE = typer.Option("--dynamic-size", help="Images of any height and width.", rich_help_panel=GRAPH)
SOFTMAX = typer.Option("--softmax", help="Answer with probabilities.", rich_help_panel=GRAPH)
UINT8 = typer.Option(
    "--uint8", help="Take pixels from 0 to 255, NHWC, and normalise them inside the file.", rich_help_panel=GRAPH
)
WEIGHTS = typer.Option(metavar="FILE|pretrained|none", help="For a model by name.")
FORCE = typer.Option("--force", help="Replace what is there.")


@flattened
def export(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    target: Annotated[str, TARGET],
    out: Annotated[Path | None, OUT] = None,
    fp16: Annotated[bool, FP16] = False,
    bf16: Annotated[bool, BF16] = False,
    int8: Annotated[bool, INT8] = False,
    fp8: Annotated[bool, FP8] = False,
    formats: Annotated[list[str] | None, FORMAT] = None,
    settings: Annotated[list[str] | None, SET] = None,
    engine: EngineOptions,
    data: Annotated[str | None, DATA] = None,
    images: Annotated[str, GATE_IMAGES] = "1000",
    calibration_images: Annotated[int, CALIBRATION_IMAGES] = 128,
    calibrator: Annotated[Literal["minmax", "entropy", "percentile"] | None, CALIBRATOR] = None,
    tolerance: Annotated[Literal["strict", "default", "loose"], TOLERANCE] = "default",
    head: Annotated[Literal["fused", "class", "distill"] | None, HEAD] = None,
    fusion: Annotated[Literal["logits", "softmax"] | None, FUSION] = None,
    opset: Annotated[int | None, OPSET] = None,
    image_size: Annotated[str | None, IMAGE_SIZE] = None,
    dynamic_size: Annotated[bool, DYNAMIC_SIZE] = False,
    softmax: Annotated[bool, SOFTMAX] = False,
    uint8: Annotated[bool, UINT8] = False,
    weights: Annotated[str | None, WEIGHTS] = None,
    force: Annotated[bool, FORCE] = False,
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
    from distillkit.contracts.exporter import parse_image_size
    from distillkit.plugin.registry import installed_plugins
    from distillkit_export.bundle.manifest import MANIFEST
    from distillkit_export.images.gate_images import ImageWish
    from distillkit_export.pipeline.options import ExportOptions

    _refuse_idle_calibration(context, int8=int8, ranged=fp16 or int8 or fp8)
    given: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8}
    short = {"onnx": {"calibrator": calibrator} if calibrator else {}, ENGINE: engine.settings()}
    asked = ExportOptions(
        formats=(*(formats or ()), *([ENGINE] if engine.trt else [])),
        precisions=tuple(name for name, wanted in given.items() if wanted),
        settings=_settings(settings or (), short),
        tolerance=tolerance,
        images=ImageWish(data, gate_images(images), calibration_images),
    )
    plugins = installed_plugins()
    terminal: Terminal = context.obj
    with closing(terminal.progress(first_line_s=0)) as display:
        asked = replace(asked, progress=partial(show_build_step, display))
        if (Path(target) / MANIFEST).is_file():
            from distillkit_export.pipeline.extend_bundle import export_from_bundle

            _refuse_on_bundle(context, target)
            result = export_from_bundle(Path(target), asked, plugins=plugins, force=force)
        else:
            from distillkit.plugin.extras import require

            require("torch", "timm", what="distillkit export")
            from distillkit_export.pipeline.export import export as exported

            result = exported(
                target,
                out,
                asked,
                plugins=plugins,
                head=head,
                fusion=fusion,
                opset=opset,
                image_size=parse_image_size(image_size),
                dynamic_size=dynamic_size,
                softmax=softmax,
                uint8=uint8,
                weights=weights,
                force=force,
            )
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
    result.require()


OF_STUDENT = (
    *("out", "data", "images", "calibration_images", "calibrator", "head", "fusion", "opset", "image_size"),
    *("dynamic_size", "softmax", "uint8", "weights"),
)
"""The parameters that mean nothing for a bundle, whose ONNX and images are there already."""


def _flag(context: typer.Context, parameter: str) -> str | None:
    """The option of a parameter where the user gave it."""
    source = context.get_parameter_source(parameter)
    if source is None or source.name != "COMMANDLINE":
        return None
    return next(each.opts[0] for each in context.command.params if each.name == parameter)


def _refuse_on_bundle(context: typer.Context, target: str) -> None:
    from distillkit.errors import UserError

    for flag in (_flag(context, parameter) for parameter in OF_STUDENT):
        if flag is not None:
            raise UserError(
                f"{flag} is about writing ONNX from a student, and '{target}' is a bundle, to which formats are added "
                f"where it lies; leave out {flag}"
            )


def _refuse_idle_calibration(context: typer.Context, *, int8: bool, ranged: bool) -> None:
    from distillkit.errors import UserError

    if not int8 and _flag(context, "calibrator"):
        raise UserError("--calibrator is about INT8, and none was asked for; add --int8")
    if not ranged and _flag(context, "calibration_images"):
        raise UserError(
            "--calibration-images is about the ranges that FP16, INT8 and FP8 need, and none was asked for; add "
            "--int8, --fp8 or --fp16"
        )


def _settings(texts: Iterable[str], short: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Settings by exporter: of --set, and of `short`, the options that stand for one.

    Raises: UserError for one that names no exporter.
    """
    from distillkit.errors import UserError
    from distillkit.recipe.overrides import as_tables, parse_assignment

    assignments = [parse_assignment(text) for text in texts]
    for assignment in assignments:
        if "." not in assignment.key:
            raise UserError(
                f"--set {assignment.key} names no exporter; write EXPORTER.KEY=VALUE, such as onnx.calibrator=entropy"
            )
    tables = dict(as_tables(assignments))
    for exporter, given in short.items():
        if given:
            tables[exporter] = {**tables.get(exporter, {}), **given}
    return tables


def gate_images(text: str) -> int | None:
    """How many images; None for all there are.

    Raises: UserError for what is neither a number from 1 nor "all".
    """
    from distillkit.errors import UserError

    if text == "all":
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UserError(f"--gate-images {text} is no number of images; give one, or all")
    return int(text)
