"""What an export shall make beside `model.onnx`, and what the files are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distillkit.contracts.exporter import PRECISIONS, Precision, ReportProgress
from distillkit.errors import UserError
from distillkit.messages.nearest_name import unknown_name
from distillkit_export.gate.limits import TOLERANCES, Limits, Tolerance
from distillkit_export.images.gate_images import ImageWish
from distillkit_export.pipeline.stage import Format

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Exporter
    from distillkit.plugin.registry import PluginRegistry

ONNX = "onnx"


@dataclass(frozen=True)
class ExportOptions:
    """Formats beside ONNX, precisions beside float32, and settings by exporter: {"onnx": {"calibrator": "entropy"}}.

    Every format is written in each of the precisions, or in float32 where there is none. `progress` hears of exporters
    that take long.
    Raises: UserError for a precision or a tolerance that there is not.
    """

    formats: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tolerance: Tolerance = "default"
    images: ImageWish = field(default_factory=ImageWish)
    progress: ReportProgress | None = None

    def __post_init__(self) -> None:
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise UserError(unknown_name("precision", precision, PRECISIONS))
        if self.tolerance not in TOLERANCES:
            raise UserError(unknown_name("tolerance", self.tolerance, tuple(TOLERANCES)))

    @property
    def limits(self) -> Mapping[Precision, Limits]:
        return TOLERANCES[self.tolerance]

    @property
    def compared(self) -> Precision | None:
        """What is written for comparison alone: an 8-bit file is always reported beside a float16 one."""
        return "fp16" if {"int8", "fp8"} & set(self.precisions) and "fp16" not in self.precisions else None

    def onnx(self, plugins: PluginRegistry) -> Format:
        """The exporter that everything rests on."""
        return self._format(ONNX, plugins)

    def others(self, plugins: PluginRegistry) -> list[Format]:
        """The exporters beside ONNX.

        Raises: UnknownPluginError; RecipeError for their options; UserError for a precision that they do not write, or
        for settings of a format that nobody asked for.
        """
        names = [name for name in dict.fromkeys(self.formats) if name != ONNX]
        for name in self.settings:
            if name not in {ONNX, *names}:
                raise UserError(f"--set {name}.KEY is of a format that was not asked for; add --format {name}")
        return [self._format(name, plugins) for name in names]

    def _format(self, name: str, plugins: PluginRegistry) -> Format:
        options = plugins.options("exporter", name, self.settings.get(name, {}))
        exporter: Exporter = plugins.made("exporter", name, options)
        for precision in self.precisions:
            if precision not in exporter.precisions:
                writes = ", ".join(exporter.precisions)
                raise UserError(f"exporter '{name}' writes {writes}, not {precision}; leave out --{precision}")
        return Format(name, exporter, options)
