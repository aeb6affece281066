"""Engine card: the JSON file next to an engine with its source, machine and batches; and the engine's file name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from distillkit.contracts.exporter import Precision
from distillkit.errors import GateError, UnavailableError
from distillkit.storage.atomic import write_text
from distillkit.storage.untrusted import read_plain_text
from distillkit_export.tensorrt.options import BatchProfile
from distillkit_export.tensorrt.preflight import Platform

FOLDER = "trt"
AMPERE = (8, 0)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text contains unprintable characters")
    return text


Text = Annotated[str, AfterValidator(_printable)]
"""Printable text: cards of third-party bundles are also read and shown on a terminal."""


class TensorCard(BaseModel):
    """An input or output. -1 in `shape` is the batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    mode: Literal["input", "output"]
    dtype: Text
    shape: tuple[int, ...]


class EngineCard(BaseModel):
    """The JSON file next to an engine.

    `precision` is that of the ONNX file. `network` counts the layers of the strongly typed network by output type;
    `layers` counts the engine's layers as its inspector reports them, empty if it reports none. `timing_cache` is
    "unusable" if it was invalid or of another machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    file: Text
    sha256: Text
    bytes: int
    onnx_file: Text
    onnx_sha256: Text
    precision: Precision
    network: dict[str, int]
    layers: dict[str, int]
    gpu: Text
    compute_capability: Text
    tensorrt: Text
    cuda: Text
    batch: BatchProfile
    workspace: int | None
    hardware_compatible: bool
    version_compatible: bool
    optimization_level: int
    tf32: bool
    timing_cache: Literal["new", "reused", "unusable"]
    tensors: tuple[TensorCard, ...]
    build_s: float

    def save(self, engine: Path) -> None:
        write_text(engine.with_suffix(".json"), self.model_dump_json(indent=2) + "\n")

    def require_match(self, here: Platform) -> None:
        """Refuse an engine built for another machine.

        Raises: UnavailableError with the differences.
        """
        differing = [
            f"{what} {there}, not {now}"
            for what, there, now, fits in (
                ("GPU", self.gpu, here.gpu, self.hardware_compatible or self.gpu == here.gpu),
                (
                    "compute capability",
                    self.compute_capability,
                    here.compute_capability,
                    self._runs_on(here.compute_capability),
                ),
                ("TensorRT", self.tensorrt, here.tensorrt, self._loads_with(here.tensorrt)),
            )
            if not fits
        ]
        if differing:
            precision = "" if self.precision == "fp32" else f" --{self.precision}"
            raise UnavailableError(
                f"engine {self.file} was built for {'; '.join(differing)}; build one for this machine: "
                f"distillkit export BUNDLE --trt{precision} --force"
            )

    def _runs_on(self, capability: str) -> bool:
        if self.hardware_compatible:
            return _numbers(capability) >= AMPERE
        return capability == self.compute_capability

    def _loads_with(self, version: str) -> bool:
        there, here = _numbers(self.tensorrt), _numbers(version)
        if self.version_compatible:
            return there[:1] == here[:1] and here >= there
        return there == here


def engine_name(here: Platform, precision: Precision, batch: BatchProfile) -> str:
    """File name of an engine, with everything that the engine is specific to.

    >>> engine_name(Platform("NVIDIA H200", "9.0", "11.4.0.106", "13.0"), "fp16", BatchProfile(1, 8, 64))
    'h200-sm90-trt11.4.0.106-fp16-b1x8x64.plan'
    """
    return f"{machine_name(here)}-{precision}-b{'x'.join(map(str, batch))}.plan"


def machine_name(here: Platform) -> str:
    """GPU, compute capability and TensorRT version as part of a file name."""
    gpu = re.sub(r"[^a-z0-9]+", "-", here.gpu.lower().removeprefix("nvidia ")).strip("-")
    return f"{gpu}-sm{here.compute_capability.replace('.', '')}-trt{here.tensorrt}"


def read_card(engine: Path) -> EngineCard:
    """Read the card of an engine.

    Raises: GateError if it is missing or invalid.
    """
    file = engine.with_suffix(".json")
    try:
        return EngineCard.model_validate_json(read_plain_text(file))
    except FileNotFoundError:
        raise GateError(f"engine {engine.name} has no {file.name}, which describes what it was built for") from None
    except ValueError as error:
        raise GateError(f"{file.name} is not a valid engine card; build the engine again") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part[:9]) for part in re.findall(r"[0-9]+", version))  # a card may contain any text
