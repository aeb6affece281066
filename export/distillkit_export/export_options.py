"""Options of an export, for the command line and Python: name, type, default and help of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from distillkit.contracts.exporter import (
    PRECISIONS,
    ExportRequest,
    Fusion,
    Head,
    Precision,
    Provenance,
    ReportProgress,
    parse_image_size,
)
from distillkit.errors import UserError
from distillkit.messages.nearest_name import unknown_name

ONNX, TENSORRT = "onnx", "tensorrt"
"""Exporters with options in `ExportOptions`; the options of other exporters are `settings`."""
OPSET = 20
BF16_OPSET = 22
"""First opset with a bfloat16 Conv."""

Calibrator = Literal["minmax", "entropy", "percentile"]
Tolerance = Literal["strict", "default", "loose"]
GateImages = int | Literal["all"]

GATE_IMAGES, CALIBRATION_IMAGES = 1000, 128
"""Default numbers of images."""

ENGINE, GATE = "TensorRT", "Gate and calibration"
"""Titles of panels in --help."""

T = TypeVar("T")


def option(default: T, text: str, *, panel: str | None = None, **more: Any) -> T:
    """A dataclass field that is also a command-line option, with `text` as its help and `panel` its panel in --help.

    `more` may have: `metavar` and `min`, as in typer; `flag`, if the option's name differs from the field's; `parse`,
    a function from the typed text to the value; `exporter`, the exporter whose setting this is; `student_only`, true
    for options that do not apply to a bundle, which already has its ONNX files and images.
    """
    return field(default=default, metadata={"help": text, "rich_help_panel": panel, **more})


file_option = partial(option, panel="Precisions and formats")
engine_option = partial(option, panel=ENGINE, exporter=TENSORRT)
image_option = partial(option, panel=GATE, student_only=True)
graph_option = partial(option, panel="The graph", student_only=True)


def parse_formats(texts: list[str] | None) -> tuple[str, ...]:
    """The values of a repeated --format."""
    return tuple(texts or ())


def parse_settings(texts: list[str] | None) -> Mapping[str, Mapping[str, Any]] | None:
    """The values of a repeated --set, by exporter.

    Raises: UserError for a key without an exporter.
    """
    from distillkit.recipe.overrides import as_tables, parse_assignment

    assignments = [parse_assignment(text) for text in texts or ()]
    for assignment in assignments:
        if "." not in assignment.key:
            raise UserError(
                f"--set {assignment.key} has no exporter; write EXPORTER.KEY=VALUE, such as onnx.calibrator=entropy"
            )
    return as_tables(assignments) or None


def parse_gate_images(text: str | None) -> GateImages | None:
    """The value of --gate-images: a number of images, or "all".

    Raises: UserError for anything else.
    """
    if text is None or text == "all":
        return "all" if text else None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UserError(f"invalid --gate-images {text}; give a number of images (1 or more) or all")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `distillkit export`, with the names of the command line; `distillkit export --help` describes them.

    `formats` are exporters besides ONNX (`--format`), `settings` their options by exporter (`--set`):
    {"onnx": {"calibrator": "entropy"}}. Every format is written in each selected precision, float32 if none is
    selected. `fp32`, which has no command-line option, adds float32 to other precisions.
    `gate_images` is a number or "all"; `image_size` is (height, width). `head` and `fusion` default to those with which
    the run evaluated its student. `opset` is 20, or 22 with `bf16`. Slow exporters call `progress` with the phase, its
    completed steps and its total steps.
    Raises: UserError for an invalid value, or for an option that has no effect without another.
    """

    fp32: bool = False
    fp16: bool = file_option(False, "Also write float16.")
    bf16: bool = file_option(False, "Also write bfloat16.")
    int8: bool = file_option(False, "Also write INT8, with explicit Q/DQ.")
    fp8: bool = file_option(False, "Also write FP8 (E4M3), with explicit Q/DQ.")
    float_weights: bool = file_option(
        False,
        "Store the weights of INT8 and FP8 as float32 behind Q/DQ; the file is as large as float32.",
        exporter=ONNX,
        student_only=True,
    )
    formats: tuple[str, ...] = file_option(
        (),
        "Another format besides ONNX: an exporter of `distillkit plugins`; may be repeated.",
        flag="--format",
        metavar="NAME",
        parse=parse_formats,
    )
    settings: Mapping[str, Mapping[str, Any]] | None = file_option(
        None,
        "Set an option of an exporter; may be repeated.",
        flag="--set",
        metavar="EXPORTER.KEY=VALUE",
        parse=parse_settings,
    )
    trt: bool = option(
        False, "Also build a TensorRT engine for this machine, in each selected precision.", panel=ENGINE
    )
    batch: str | None = engine_option(None, "Batch sizes of the engine. Default: 1:8:64.", metavar="MIN:TYPICAL:MAX")
    workspace: str | None = engine_option(
        None, "Workspace memory limit, such as 4G. Default: all GPU memory.", metavar="SIZE"
    )
    timing_cache: str | None = engine_option(None, "Timing cache that makes later builds faster.", metavar="FILE")
    hardware_compatible: bool = engine_option(False, "Let the engine run on any GPU from Ampere on; slower.")
    version_compatible: bool = engine_option(False, "Let the engine run with newer TensorRT of the same major version.")
    layers: bool = engine_option(False, "Also write the layers of the engine.")
    data: str | None = image_option(
        None, "Images for calibration and the gate. Default: those of the run.", metavar="DIR|NAME"
    )
    gate_images: GateImages | None = image_option(
        None, "Number of images for the gate. Default: 1000.", metavar="N|all", parse=parse_gate_images
    )
    calibration_images: int | None = image_option(
        None, "Number of images for calibration. Default: 128.", metavar="N", min=1
    )
    calibrator: Calibrator | None = image_option(
        None, "INT8 calibration: minmax, entropy or percentile. Default: minmax.", metavar="NAME", exporter=ONNX
    )
    tolerance: Tolerance = option("default", "Limits on the difference from torch.", panel=GATE)
    head: Head | None = graph_option(None, "Head whose output is exported. Default: as in the run.")
    fusion: Fusion | None = graph_option(None, "How the outputs of two heads are fused. Default: as in the run.")
    opset: int | None = graph_option(None, "ONNX operator set. Default: 20; 22 with --bf16.", metavar="N")
    image_size: tuple[int, int] | None = graph_option(
        None, "Image size in pixels. Default: that of the model.", metavar="N|HxW", parse=parse_image_size
    )
    dynamic_size: bool = graph_option(False, "Accept images of any height and width.")
    softmax: bool = graph_option(False, "Output probabilities instead of logits.")
    uint8: bool = graph_option(False, "Accept uint8 NHWC pixels from 0 to 255 and normalise them inside the file.")
    checkpoint: str | None = option(
        None,
        "Student of a run: last, best, ema, or the step of a checkpoint. Default: last.",
        metavar="last|best|ema|STEP",
        student_only=True,
    )
    weights: str | None = option(
        None, "Weights of a model given by name.", metavar="FILE|pretrained|none", student_only=True
    )
    force: bool = option(False, "Replace existing files.")
    progress: ReportProgress | None = None

    def __post_init__(self) -> None:
        self._require_effect()
        self.request()
        if self.tolerance not in get_args(Tolerance):
            raise UserError(unknown_name("tolerance", self.tolerance, get_args(Tolerance)))
        for name in ("gate_images", "calibration_images"):
            count = getattr(self, name)
            if isinstance(count, int) and count < 1:
                raise UserError(f"{name} is {count}; give 1 or more")

    def _require_effect(self) -> None:
        """Refuse an option that has no effect without another."""
        if self.calibrator and not self.int8:
            raise UserError("--calibrator has no effect without INT8; add --int8")
        if self.float_weights and not (self.int8 or self.fp8):
            raise UserError("--float-weights has no effect without INT8 or FP8; add --int8 or --fp8")
        if "calibration_images" in self.changed() and not (self.fp16 or self.int8 or self.fp8):
            raise UserError("--calibration-images has no effect without FP16, INT8 or FP8; add --fp16, --int8 or --fp8")
        engine = self.changed(exporter=TENSORRT)
        if engine and not self.trt:
            raise UserError(f"{flag(engine[0])} has no effect without a TensorRT engine; add --trt")

    def changed(self, **marks: Any) -> list[str]:
        """Names of the fields with non-default values, among those with these `marks`, such as `student_only=True`."""
        return [
            each.name
            for each in fields(self)
            if marks.items() <= each.metadata.items() and getattr(self, each.name) != each.default
        ]

    @property
    def gate_limit(self) -> int | None:
        """Number of images for the gate; None for all."""
        return most_images(self.gate_images)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The selected precisions; `model.onnx` is always written, in float32."""
        return tuple(precision for precision in PRECISIONS if getattr(self, precision))

    @property
    def comparison(self) -> Precision | None:
        """Precision written only for comparison: every 8-bit file is reported next to a float16 one."""
        return "fp16" if (self.int8 or self.fp8) and not self.fp16 else None

    @property
    def exporters(self) -> tuple[str, ...]:
        """Names of the exporters besides ONNX, without duplicates."""
        names = dict.fromkeys((*self.formats, *([TENSORRT] if self.trt else ())))
        return tuple(name for name in names if name != ONNX)

    def settings_by_exporter(self) -> dict[str, dict[str, Any]]:
        """The settings of every exporter; a dedicated option overrides --set."""
        settings = {name: dict(given) for name, given in (self.settings or {}).items()}
        for exporter in (ONNX, TENSORRT):
            dedicated = {name: getattr(self, name) for name in self.changed(exporter=exporter)}
            if dedicated:
                settings[exporter] = settings.get(exporter, {}) | dedicated
        return settings

    def request(
        self, head: Head = "fused", fusion: Fusion = "logits", provenance: Provenance | None = None
    ) -> ExportRequest:
        """The request passed to exporters. `head` and `fusion` are the run's, used if the options set none.

        Raises: UserError for an unknown head, fusion or opset.
        """
        return ExportRequest(
            self.head or head,
            self.fusion or fusion,
            self.opset or (BF16_OPSET if self.bf16 else OPSET),
            self.image_size,
            self.dynamic_size,
            self.softmax,
            self.uint8,
            provenance or Provenance(),
        )


def most_images(gate_images: GateImages | None) -> int | None:
    """Number of images for a value of --gate-images; None for all."""
    return None if gate_images == "all" else gate_images or GATE_IMAGES


def flag(name: str) -> str:
    """The command-line option of a field."""
    return f"--{name.replace('_', '-')}"
