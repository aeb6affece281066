"""The options of `export` that ask for a TensorRT engine: short forms of --format tensorrt --set tensorrt.KEY=VALUE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any

import typer

FORMAT = "tensorrt"

engine_option = partial(typer.Option, rich_help_panel="TensorRT")
TRT = engine_option("--trt", help="Also a TensorRT engine for this machine, in each precision asked for.")
BATCH = engine_option(metavar="MIN:TYPICAL:MAX", help="The batches that it takes. Default: 1:8:64.")
WORKSPACE = engine_option(metavar="4G", help="Scratch memory. Default: all of the GPU.")
TIMING_CACHE = engine_option(metavar="FILE", help="Where what was learnt about kernels is kept.")
HARDWARE_COMPATIBLE = engine_option("--hardware-compatible", help="Also for other GPUs, from Ampere on; slower.")
VERSION_COMPATIBLE = engine_option("--version-compatible", help="Also for newer TensorRT of the same major version.")
LAYERS = engine_option("--layers", help="Write the layers of the engine beside it.")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Whether there shall be an engine, and how it is built."""

    trt: Annotated[bool, TRT] = False
    batch: Annotated[str | None, BATCH] = None
    workspace: Annotated[str | None, WORKSPACE] = None
    timing_cache: Annotated[str | None, TIMING_CACHE] = None
    hardware_compatible: Annotated[bool, HARDWARE_COMPATIBLE] = False
    version_compatible: Annotated[bool, VERSION_COMPATIBLE] = False
    layers: Annotated[bool, LAYERS] = False

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
