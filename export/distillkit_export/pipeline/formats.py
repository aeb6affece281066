"""Formats of an export: each exporter, found by name and created with its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillkit.contracts.exporter import HasFlags
from distillkit.errors import DistillkitError, UserError
from distillkit.messages.text import command
from distillkit_export.bundle.manifest import BUNDLE_PLACEHOLDER, Bundle, PendingCard
from distillkit_export.export_options import ONNX, ExportOptions

if TYPE_CHECKING:
    from pydantic import BaseModel

    from distillkit.contracts.exporter import Exporter, Precision
    from distillkit.plugin.registry import PluginRegistry


@dataclass(frozen=True)
class Format:
    """An exporter with its name and options; the options are repeated in the command of a pending file."""

    name: str
    exporter: Exporter
    options: BaseModel

    def flags(self, precision: Precision) -> list[str]:
        """The command-line options that select this format and precision."""
        if isinstance(self.exporter, HasFlags):
            flags = list(self.exporter.flags())
        else:
            flags = ["--format", self.name]
            for key, value in self.options.model_dump(mode="json", exclude_defaults=True).items():
                flags += ["--set", f"{self.name}.{key}={value}"]
        return flags if precision == "fp32" else [*flags, f"--{precision}"]

    def command(self, precision: Precision) -> str:
        """The command that adds the file to a bundle, with `BUNDLE_PLACEHOLDER` for the bundle."""
        return command("distillkit", "export", BUNDLE_PLACEHOLDER, *self.flags(precision))


def onnx_format(options: ExportOptions, plugins: PluginRegistry) -> Format:
    """The ONNX exporter; all other formats are made from its files."""
    return _format(ONNX, options, plugins)


def other_formats(options: ExportOptions, plugins: PluginRegistry) -> list[Format]:
    """The exporters besides ONNX.

    Raises: UnknownPluginError; RecipeError for invalid options; UserError for an unsupported precision, or for settings
    of a format that is not exported.
    """
    for name in options.settings_by_exporter():
        if name not in {ONNX, *options.exporters}:
            raise UserError(f"--set {name}.KEY has no effect without that format; add --format {name}")
    return [_format(name, options, plugins) for name in options.exporters]


def with_own_commands(bundle: Bundle, plugins: PluginRegistry) -> Bundle:
    """The bundle with commands for its pending files that are made here: those in its file are text of its author."""
    pending = (card.model_copy(update={"command": _own_command(card, plugins)}) for card in bundle.pending)
    return bundle.model_copy(update={"pending": tuple(pending)})


def _own_command(card: PendingCard, plugins: PluginRegistry) -> str:
    """The command of a pending file; its format and precision alone if its exporter is missing or refuses its options.

    The settings that are stored with the file apply in any case.
    """
    options = ExportOptions(formats=(card.format,), settings={card.format: card.options})
    try:
        return _format(card.format, options, plugins).command(card.precision)
    except DistillkitError:
        precision = () if card.precision == "fp32" else (f"--{card.precision}",)
        return command("distillkit", "export", BUNDLE_PLACEHOLDER, "--format", card.format, *precision)


def _format(name: str, options: ExportOptions, plugins: PluginRegistry) -> Format:
    plugin = plugins.find("exporter", name)
    checked = plugin.options(options.settings_by_exporter().get(name, {}))
    exporter: Exporter = plugin.create(checked)
    for precision in options.precisions:
        if precision not in exporter.precisions:
            writes = ", ".join(exporter.precisions)
            raise UserError(f"exporter '{name}' writes {writes}, not {precision}; leave out --{precision}")
    return Format(name, exporter, checked)
