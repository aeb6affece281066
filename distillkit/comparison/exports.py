"""Sizes and latencies of what was exported from a run, from the bundles and profiles in its directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from distillkit.storage.untrusted import open_plain, plain_sha256, read_json

MANIFEST, PROFILE = "bundle.json", "profile/profile.json"
STUDENT = "student.safetensors"


class StoredSource(BaseModel):
    """The part of the source of a bundle that a comparison reads."""

    checkpoint: str | None = None
    weights_sha256: str | None = None


class StoredArtifact(BaseModel):
    """The part of an exported file in bundle.json that a comparison reads."""

    format: str
    file: str
    precision: str


class File(BaseModel):
    """Size of a file in bundle.json."""

    bytes: int


class Manifest(BaseModel):
    """The part of bundle.json that a comparison reads."""

    source: StoredSource
    artifacts: list[StoredArtifact]
    files: dict[str, File]


class StoredConfiguration(BaseModel):
    """The part of a configuration in profile.json that a comparison reads."""

    name: str
    runtime: str
    precision: str
    setting: dict[str, Any] = {}


class Measured(BaseModel):
    """The part of a row of profile.json that a comparison reads."""

    configuration: str
    batch: int
    mode: str
    p50_ms: float | None = None
    images_per_s: float | None = None
    caveats: list[str] = Field([], alias="doubts")


class Machine(BaseModel):
    """The part of the machine in profile.json that a comparison reads."""

    processor: str
    cpus: int
    gpus: list[dict[str, Any]] = []


class StoredProfile(BaseModel):
    """The part of profile.json that a comparison reads."""

    machine: Machine
    configurations: list[StoredConfiguration]
    rows: list[Measured]


@dataclass(frozen=True)
class Latency:
    """The median latency of one configuration at one batch size. `is_reliable` is false if the profile has caveats."""

    configuration: str
    batch: int
    mode: str
    p50_ms: float
    images_per_s: float | None
    machine: str
    is_reliable: bool


@dataclass(frozen=True)
class Export:
    """A bundle of the run: the size in bytes of each file by format and precision, and latencies if it was profiled."""

    folder: str
    sizes: dict[str, int]
    latencies: tuple[Latency, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def read_exports(run: Path) -> tuple[tuple[Export, ...], tuple[str, ...]]:
    """The bundles in the directory of a run, its own profile, and notes on those that cannot be used.

    A bundle of other weights than those of the run's student, as after another training in the same directory, is left
    out; so is one that cannot be read.
    """
    exports: list[Export] = []
    notes: list[str] = []
    for manifest in sorted(run.glob(f"export*/{MANIFEST}")):
        try:
            exports.append(_bundle(run, manifest))
        except (OSError, ValueError) as error:
            reason = str(error) if isinstance(error, OtherWeightsError) else "its bundle.json is damaged"
            notes.append(f"bundle '{manifest.parent}' is left out: {reason}")
    own = tuple(_latencies(run / PROFILE))
    return (*exports, *((Export("", {}, own),) if own else ())), tuple(notes)


class OtherWeightsError(ValueError):
    """A bundle of other weights than those of the run that it is in."""


def _bundle(run: Path, file: Path) -> Export:
    manifest = Manifest.model_validate(read_json(file))
    source = manifest.source
    # Of another student of the run (best, ema) only the name is known.
    if source.checkpoint in {None, "last"} and source.weights_sha256 != _sha256(run / STUDENT):
        raise OtherWeightsError("it was not exported from the student of this run; export the run again")
    student = "" if source.checkpoint in {None, "last"} else f" of {source.checkpoint}"
    sizes = {
        f"{each.format} {each.precision}{student}": manifest.files[each.file].bytes
        for each in manifest.artifacts
        if each.file in manifest.files
    }
    return Export(file.parent.name, sizes, tuple(_latencies(file.parent / PROFILE)))


def _sha256(file: Path) -> str | None:
    with open_plain(file) as content:
        return plain_sha256(content, os.fstat(content.fileno()).st_size)


def _latencies(file: Path) -> Iterator[Latency]:
    """The rows of a profile that have a latency; none if it cannot be read."""
    try:
        profile = StoredProfile.model_validate(read_json(file))
    except (OSError, ValueError):
        return
    machine = _machine(profile.machine)
    configurations = {each.name: _configuration(each) for each in profile.configurations}
    for row in profile.rows:
        if row.p50_ms is not None and row.configuration in configurations:
            yield Latency(
                configurations[row.configuration],
                row.batch,
                row.mode,
                row.p50_ms,
                row.images_per_s,
                machine,
                is_reliable=not row.caveats,
            )


def _configuration(configuration: StoredConfiguration) -> str:
    """Runtime, precision and settings, without the name of the student."""
    settings = [f"{key}={value}" for key, value in configuration.setting.items()]
    return " ".join([configuration.runtime, configuration.precision, *settings])


def _machine(machine: Machine) -> str:
    gpus: Sequence[str] = [str(gpu.get("name")) for gpu in machine.gpus]
    return ", ".join([f"{machine.processor}, {machine.cpus} CPUs", *gpus])
