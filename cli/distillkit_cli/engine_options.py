"""The options of `export` that ask for a TensorRT engine: short forms of --format tensorrt --set tensorrt.KEY=VALUE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

PANEL = "TensorRT"
FORMAT = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Whether there shall be an engine, and how it is built."""

    trt: Annotated[
        bool,
        typer.Option(
            "--trt", help="Also a TensorRT engine for this machine, in each precision asked for.", rich_help_panel=PANEL
        ),
    ] = False
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:TYPICAL:MAX", help="The batches that it takes. Default: 1:8:64.", rich_help_panel=PANEL
        ),
    ] = None
    workspace: Annotated[
        str | None,
        typer.Option(metavar="4G", help="Scratch memory. Default: all of the GPU.", rich_help_panel=PANEL),
    ] = None
    timing_cache: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where what was learnt about kernels is kept.", rich_help_panel=PANEL),
    ] = None
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible", help="Also for other GPUs, from Ampere on; slower.", rich_help_panel=PANEL
        ),
    ] = False
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="Also for newer TensorRT of the same major version.", rich_help_panel=PANEL
        ),
    ] = False
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Write the layers of the engine beside it.", rich_help_panel=PANEL),
    ] = False

    def settings(self) -> Mapping[str, Any]:
        """What was given, by the exporter's own names.

        Raises: UserError where there is something, but no engine was asked for.
        """
        from distillkit.errors import UserError

        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "trt"}
        settings = {name: value for name, value in given.items() if value not in (None, False)}
        if settings and not self.trt:
            flag = f"--{next(iter(settings)).replace('_', '-')}"
            raise UserError(f"{flag} is about a TensorRT engine, and none was asked for; add --trt")
        return settings
