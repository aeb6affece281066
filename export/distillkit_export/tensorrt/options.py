"""Options of the TensorRT exporter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
LARGEST_BATCH = 65_536


class BatchProfile(NamedTuple):
    """The range of batch sizes that an engine accepts, and the one that it is tuned for."""

    smallest: int
    typical: int
    largest: int

    def __str__(self) -> str:
        return ":".join(map(str, self))


def batch_profile(given: object) -> BatchProfile:
    """Parse "1:8:64", or "8" for an engine that accepts only this batch size.

    >>> batch_profile("1:8:64")
    BatchProfile(smallest=1, typical=8, largest=64)
    """
    if isinstance(given, BatchProfile):
        return given
    parts = str(given).split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"'{given}' is not a batch profile; give the smallest, typical and largest batch as 1:8:64")
    profile = BatchProfile(*map(int, parts * 3 if len(parts) == 1 else parts))
    if not 1 <= profile.smallest <= profile.typical <= profile.largest:
        raise ValueError(
            f"'{given}' is not a batch profile; its numbers must be at least 1 and not decrease, as in 1:8:64"
        )
    if profile.largest > LARGEST_BATCH:
        raise ValueError(
            f"'{given}' is not a batch profile; its numbers must be at most {LARGEST_BATCH:,}, as in 1:8:64"
        )
    return profile


def bytes_of(given: object) -> int | None:
    """Parse "4G", "512M" or a number of bytes.

    >>> bytes_of("4G")
    4294967296
    """
    if given is None:
        return None
    matched = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", str(given))
    if matched is None or int(matched[1]) == 0:
        raise ValueError(f"'{given}' is not an amount of memory; write 4G or 512M")
    return int(matched[1]) * UNITS[matched[2]]


def amount(size: int | None) -> str | None:
    """Format a number of bytes so that `bytes_of` can parse it.

    >>> amount(4294967296), amount(1000)
    ('4G', '1000')
    """
    if size is None:
        return None
    unit = max((unit for unit, factor in UNITS.items() if size % factor == 0), key=lambda unit: UNITS[unit])
    return f"{size // UNITS[unit]}{unit}"


class TensorRtOptions(BaseModel):
    """How engines are built. Options that make an engine run on more machines cost speed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Annotated[
        BatchProfile,
        BeforeValidator(batch_profile),
        PlainSerializer(str),
        WithJsonSchema({"type": "string"}),
        Field(
            description="the smallest batch size, the one that the engine is tuned for, and the largest",
            json_schema_extra={"default": "1:8:64"},
        ),
    ] = BatchProfile(1, 8, 64)
    workspace: Annotated[
        int | None,
        BeforeValidator(bytes_of),
        PlainSerializer(amount),
        WithJsonSchema({"type": "string"}),
        Field(description="limit on scratch memory per layer, such as 4G; by default all of the GPU"),
    ] = None
    # Not serialised: the path means nothing on another machine, and a bundle must not be able to name a file to write.
    timing_cache: Path | None = Field(
        default=None,
        exclude=True,
        description="the file for TensorRT's kernel timings; in the user's cache by default",
    )
    hardware_compatible: bool = Field(default=False, description="the engine also runs on other GPUs, Ampere or newer")
    version_compatible: bool = Field(
        default=False, description="the engine also runs with newer TensorRT of the same major version"
    )
    optimization_level: int = Field(default=3, ge=0, le=5, description="higher levels search longer for fast kernels")
    layers: bool = Field(default=False, description="write the engine's layers to a JSON file next to it")
    tf32: bool = Field(default=False, description="let float32 layers compute in TF32, with 10 bits of mantissa")
    timeout_s: float = Field(default=7200.0, gt=0, description="time limit of a build, in seconds")
