"""The options of an export, for the command line and for Python: each with its name, type, default and help."""

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
"""The exporters that have options of their own here; those of other exporters are `settings`."""
OPSET = 20
BF16_OPSET = 22
"""The first opset in which ONNX has a convolution of bfloat16."""

Calibrator = Literal["minmax", "entropy", "percentile"]
Tolerance = Literal["strict", "default", "loose"]
GateImages = int | Literal["all"]

GATE_IMAGES, CALIBRATION_IMAGES = 1000, 128
"""How many images are used where the options do not say."""

ENGINE, GATE = "TensorRT", "Gate and calibration"
"""Panels of --help."""

T = TypeVar("T")


def option(default: T, text: str, *, panel: str | None = None, **more: Any) -> T:
    """A field that is also an option of the command line, with `text` as its help in a panel of --help.

    `more` may have: `metavar` and `min`, as typer takes them; `flag`, where the option is not called as the field is;
    `parse`, a function from what is typed to the value; `exporter`, whose setting this is; `of_student`, true for what
    makes no sense for a bundle, which has its ONNX and its images already.
    """
    return field(default=default, metadata={"help": text, "rich_help_panel": panel, **more})


file_option = partial(option, panel="Precisions and formats")
engine_option = partial(option, panel=ENGINE, exporter=TENSORRT)
image_option = partial(option, panel=GATE, of_student=True)
graph_option = partial(option, panel="The graph", of_student=True)


def parse_formats(texts: list[str] | None) -> tuple[str, ...]:
    """The values of a repeated --format."""
    return tuple(texts or ())


def parse_settings(texts: list[str] | None) -> Mapping[str, Mapping[str, Any]] | None:
    """The values of a repeated --set, by exporter.

    Raises: UserError for one that names no exporter.
    """
    from distillkit.recipe.overrides import as_tables, parse_assignment

    assignments = [parse_assignment(text) for text in texts or ()]
    for assignment in assignments:
        if "." not in assignment.key:
            raise UserError(
                f"--set {assignment.key} names no exporter; write EXPORTER.KEY=VALUE, such as onnx.calibrator=entropy"
            )
    return as_tables(assignments) or None


def parse_gate_images(text: str | None) -> GateImages | None:
    """A number of images, or "all".

    Raises: UserError for what is neither a number from 1 nor "all".
    """
    if text is None or text == "all":
        return "all" if text else None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UserError(f"--gate-images {text} is no number of images; give one, or all")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `distillkit export`, each called as on the command line; its `--help` says what they do.

    `formats` are exporters beside ONNX (`--format`), `settings` their options by exporter (`--set`):
    {"onnx": {"calibrator": "entropy"}}. Every format is written in each precision, or in float32 where none is chosen;
    with `fp32`, which has no option of the command line, in float32 beside the others.
    `gate_images` is a number or "all"; `image_size` is (height, width). Without `head` and `fusion` a saved student
    answers as its run evaluated it. `opset` is 20, or 22 with `bf16`. `progress` is called with the phase, its steps
    that are done, and all of them, by exporters that take long.
    Raises: UserError for a value that is not allowed, or for an option that has no effect without another.
    """

    fp32: bool = False
    fp16: bool = file_option(False, "Also in float16.")
    bf16: bool = file_option(False, "Also in bfloat16.")
    int8: bool = file_option(False, "Also in INT8, by explicit Q/DQ.")
    fp8: bool = file_option(False, "Also in FP8 (E4M3), by explicit Q/DQ.")
    formats: tuple[str, ...] = file_option(
        (),
        "An exporter of `distillkit plugins`, beside ONNX; may be repeated.",
        flag="--format",
        metavar="NAME",
        parse=parse_formats,
    )
    settings: Mapping[str, Mapping[str, Any]] | None = file_option(
        None,
        "An option of an exporter; may be repeated.",
        flag="--set",
        metavar="EXPORTER.KEY=VALUE",
        parse=parse_settings,
    )
    trt: bool = option(False, "Also a TensorRT engine for this machine, in each precision asked for.", panel=ENGINE)
    batch: str | None = engine_option(None, "The batches that it takes. Default: 1:8:64.", metavar="MIN:TYPICAL:MAX")
    workspace: str | None = engine_option(None, "Scratch memory. Default: all of the GPU.", metavar="4G")
    timing_cache: str | None = engine_option(None, "Where what was learnt about kernels is kept.", metavar="FILE")
    hardware_compatible: bool = engine_option(False, "Also for other GPUs, from Ampere on; slower.")
    version_compatible: bool = engine_option(False, "Also for newer TensorRT of the same major version.")
    layers: bool = engine_option(False, "Write the layers of the engine beside it.")
    data: str | None = image_option(
        None, "Images to calibrate and gate with. Default: the run's own.", metavar="DIR|NAME"
    )
    gate_images: GateImages | None = image_option(
        None, "How many images the gate looks at. Default: 1000.", metavar="N|all", parse=parse_gate_images
    )
    calibration_images: int | None = image_option(
        None, "How many images ranges are taken from. Default: 128.", metavar="N", min=1
    )
    calibrator: Calibrator | None = image_option(
        None, "INT8 calibration: minmax, entropy or percentile. Default: minmax.", metavar="NAME", exporter=ONNX
    )
    tolerance: Tolerance = option("default", "How far files may be from torch.", panel=GATE)
    head: Head | None = graph_option(None, "The head that answers. Default: as in the run.")
    fusion: Fusion | None = graph_option(None, "How two heads become one answer. Default: as in the run.")
    opset: int | None = graph_option(None, "The ONNX operator set. Default: 20; 22 with --bf16.", metavar="N")
    image_size: tuple[int, int] | None = graph_option(
        None, "Pixels of the images, where not the model's own.", metavar="N|HxW", parse=parse_image_size
    )
    dynamic_size: bool = graph_option(False, "Images of any height and width.")
    softmax: bool = graph_option(False, "Answer with probabilities.")
    uint8: bool = graph_option(False, "Take pixels from 0 to 255, NHWC, and normalise them inside the file.")
    weights: str | None = option(None, "For a model by name.", metavar="FILE|pretrained|none", of_student=True)
    force: bool = option(False, "Replace what is there.")
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
            raise UserError("--calibrator is about INT8, and none was asked for; add --int8")
        if "calibration_images" in self.changed() and not (self.fp16 or self.int8 or self.fp8):
            raise UserError(
                "--calibration-images is about the ranges that FP16, INT8 and FP8 need, and none was asked for; add "
                "--int8, --fp8 or --fp16"
            )
        engine = self.changed(exporter=TENSORRT)
        if engine and not self.trt:
            raise UserError(f"{flag(engine[0])} is about a TensorRT engine, and none was asked for; add --trt")

    def changed(self, **marks: Any) -> list[str]:
        """The fields that are not at their default, of those with these `marks`, such as `of_student=True`."""
        return [
            each.name
            for each in fields(self)
            if marks.items() <= each.metadata.items() and getattr(self, each.name) != each.default
        ]

    @property
    def gate_limit(self) -> int | None:
        """How many images the gate looks at; None for all."""
        return most_images(self.gate_images)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The chosen precisions; `model.onnx` is written in float32 always."""
        return tuple(precision for precision in PRECISIONS if getattr(self, precision))

    @property
    def compared(self) -> Precision | None:
        """What is written for comparison alone: an 8-bit file is always reported beside a float16 one."""
        return "fp16" if (self.int8 or self.fp8) and not self.fp16 else None

    @property
    def exporters(self) -> tuple[str, ...]:
        """The exporters beside ONNX, each once."""
        names = dict.fromkeys((*self.formats, *([TENSORRT] if self.trt else ())))
        return tuple(name for name in names if name != ONNX)

    def settings_by_exporter(self) -> dict[str, dict[str, Any]]:
        """The settings of every exporter; an option of its own outranks --set."""
        settings = {name: dict(given) for name, given in (self.settings or {}).items()}
        for exporter in (ONNX, TENSORRT):
            own = {name: getattr(self, name) for name in self.changed(exporter=exporter)}
            if own:
                settings[exporter] = settings.get(exporter, {}) | own
        return settings

    def request(
        self, head: Head = "fused", fusion: Fusion = "logits", provenance: Provenance | None = None
    ) -> ExportRequest:
        """What an exporter gets. `head` and `fusion` are those of the run, and are used where the options have none.

        Raises: UserError for a head, a fusion or an opset that does not exist.
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
    """The number that `gate_images` means; None for all."""
    return None if gate_images == "all" else gate_images or GATE_IMAGES


def flag(name: str) -> str:
    """The option of a field, as it is typed."""
    return f"--{name.replace('_', '-')}"
