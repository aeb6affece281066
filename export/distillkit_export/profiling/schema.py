"""What a profile says, as it is written and as it is read: the schema of profile JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from distillkit.contracts.exporter import Precision
from distillkit.errors import UserError
from distillkit.messages.validation import first_mistake, newer_version
from distillkit.storage.untrusted import read_json

SCHEMA_VERSION: Literal[1] = 1
KIND: Literal["distillkit profile"] = "distillkit profile"
Mode = Literal["compute", "e2e"]


class ProfilePart(BaseModel):
    """A part of a profile: no key but these, and none changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GpuCard(ProfilePart):
    """One GPU at one moment, as nvidia-smi reports it; what it does not report is None."""

    name: str
    driver: str | None = None
    memory_mib: float | None = None
    sm_mhz: float | None = None
    max_sm_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle_reasons: str | None = None
    persistence: str | None = None


class MachineCard(ProfilePart):
    """The machine, without a name or a path. `load_average` is of the last minute, before anything was measured."""

    processor: str
    cpus: int
    cores: int
    memory_bytes: int | None
    governor: str | None
    boost: bool | None
    load_average: float | None
    system: str
    software: dict[str, str]
    gpus: tuple[GpuCard, ...]


class MethodCard(ProfilePart):
    """How it was measured, with the four switches in which trtexec's versions differ."""

    seconds: float
    rounds: int
    batches: tuple[int, ...]
    modes: dict[Mode, str]
    percentiles: str
    warm_up: str


class AccuracyCard(ProfilePart):
    """Top 1 in percent, measured elsewhere and quoted here: on how many images, and by whom."""

    top1: float
    images: int | None
    source: str


class SubjectCard(ProfilePart):
    """What was profiled. `accuracy` is by precision, as far as it was measured."""

    name: str
    architecture: str | None = None
    parameters: int | None = None
    input: str = ""
    accuracy: dict[str, AccuracyCard] = {}


class ConfigurationCard(ProfilePart):
    """One subject in one precision in one runtime with one setting.

    `load_s` is from a fresh process to a loaded model, the import of the runtime included. `failed` says why there are
    no measurements.
    """

    name: str
    subject: str
    runtime: str
    format: str
    precision: Precision
    setting: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    file: str | None = None
    file_bytes: int | None = None
    load_s: float | None = None
    failed: str | None = None


class RatioCard(ProfilePart):
    """How many times as fast as the baseline: median over rounds, and its 95 % interval."""

    median: float
    low: float
    high: float
    rounds: int


class RowCard(ProfilePart):
    """One configuration at one batch size in one mode. `doubts` are reasons not to trust it; `failed` why it is empty.

    `round_medians_ms` has one entry per round. Throughput is queries times batch by the time they took together.
    """

    configuration: str
    batch: int
    mode: Mode
    clock: Literal["host", "device"] = "host"
    queries: int = 0
    mean_ms: float | None = None
    min_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    cv: float | None = None
    images_per_s: float | None = None
    first_ms: float | None = None
    warm_up_s: float | None = None
    round_medians_ms: tuple[float, ...] = ()
    peak_rss_bytes: int | None = None
    device_bytes: int | None = None
    joules_per_image: float | None = None
    sm_mhz: float | None = None
    ratio: RatioCard | None = None
    doubts: tuple[str, ...] = ()
    failed: str | None = None


class ChoiceCard(ProfilePart):
    """The setting that won at one batch size, and its latency beside that of the runtimes as they come."""

    configuration: str
    runtime: str
    format: str
    precision: Precision
    setting: dict[str, Any]
    file: str | None = None
    p50_ms: float
    against: dict[str, RatioCard]


class ProfileCard(ProfilePart):
    """The whole of a profile's JSON. `best` is by batch size; `skipped` says what was not measured, and why."""

    kind: Literal["distillkit profile"] = KIND
    schema_version: Literal[1] = SCHEMA_VERSION
    made: str
    machine: MachineCard
    method: MethodCard
    baseline: str | None
    subjects: tuple[SubjectCard, ...]
    configurations: tuple[ConfigurationCard, ...]
    rows: tuple[RowCard, ...]
    best: dict[str, ChoiceCard] = {}
    skipped: tuple[str, ...] = ()

    def configuration(self, name: str) -> ConfigurationCard:
        """The configuration of this name."""
        return next(card for card in self.configurations if card.name == name)

    def subject(self, name: str) -> SubjectCard:
        """The subject of this name."""
        return next(card for card in self.subjects if card.name == name)

    def row(self, configuration: str, batch: int, mode: Mode) -> RowCard | None:
        """The row of a configuration, where it was measured."""
        key = (configuration, batch, mode)
        found = (row for row in self.rows if (row.configuration, row.batch, row.mode) == key and row.failed is None)
        return next(found, None)


def read_profile(path: Path) -> ProfileCard:
    """Read a profile that was written here or elsewhere.

    Raises: UserError for a file that is no profile, is torn, or is of a newer distillkit.
    """
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"profile '{path}' cannot be read ({error.__cause__ or error}); give a JSON file of `distillkit profile`"
        ) from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"'{path}' is no profile; give a JSON file that `distillkit profile` wrote")
    if newer := newer_version(data, "schema_version", SCHEMA_VERSION):
        raise UserError(
            f"profile '{path}' has schema {newer} and this distillkit reads {SCHEMA_VERSION}; upgrade distillkit"
        )
    try:
        return ProfileCard.model_validate(data)
    except ValidationError as error:
        raise UserError(f"profile '{path}' is torn: {first_mistake(error)}; measure again") from None
