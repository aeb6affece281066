"""Schema of profile.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from distillkit.compute.machine import MachineCard
from distillkit.contracts.exporter import Precision
from distillkit.errors import UserError
from distillkit.messages.validation import first_problem, newer_version
from distillkit.storage.untrusted import read_json

SCHEMA_VERSION: Literal[1] = 1
KIND: Literal["distillkit profile"] = "distillkit profile"
Mode = Literal["compute", "e2e"]
CAVEATS_KEY = "doubts"
"""The key of a row's caveats in files of schema 1."""


class ProfilePart(BaseModel):
    """Base of the parts of a profile: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodCard(ProfilePart):
    """How it was measured, including the four options whose defaults differ between versions of trtexec."""

    seconds: float
    rounds: int
    batches: tuple[int, ...]
    modes: dict[Mode, str]
    percentiles: str
    warm_up: str


class AccuracyCard(ProfilePart):
    """Top-1 accuracy in percent, copied from `source`, and the number of images."""

    top1: float
    images: int | None
    source: str


class SubjectCard(ProfilePart):
    """A profiled student. `accuracy` is by precision, where measured."""

    name: str
    architecture: str | None = None
    parameters: int | None = None
    input: str = ""
    accuracy: dict[str, AccuracyCard] = {}


class ConfigurationCard(ProfilePart):
    """One subject in one precision in one runtime with one setting.

    `load_s` is the time to import the runtime and load the model in a fresh process. `failed` is the reason if it was
    not measured.
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
    """Speed-up over the baseline: median over rounds, and its 95 % confidence interval."""

    median: float
    low: float
    high: float
    rounds: int


class RowCard(ProfilePart):
    """One configuration at one batch size in one mode. `failed` is the reason if it has no figures.

    `caveats` are reasons not to trust the figures; their key in files is `CAVEATS_KEY`. `round_medians_ms` has one
    entry per round. `images_per_s` is queries times batch over their total time.
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
    caveats: tuple[str, ...] = Field(default=(), validation_alias=AliasChoices(CAVEATS_KEY, "caveats"))
    failed: str | None = None

    @model_serializer(mode="wrap")
    def _with_key_of_files(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Not `serialization_alias`, which every caller of model_dump would have to ask for.
        return {CAVEATS_KEY if key == "caveats" else key: value for key, value in serialize(self).items()}


class ChoiceCard(ProfilePart):
    """The fastest setting at one batch size, and its speed-up over the runtimes' default settings."""

    configuration: str
    runtime: str
    format: str
    precision: Precision
    setting: dict[str, Any]
    file: str | None = None
    p50_ms: float
    against: dict[str, RatioCard]


class ProfileCard(ProfilePart):
    """A profile. `best` is by batch size; `skipped` lists what was not measured, and why."""

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
        """The row of a configuration; None if it was not measured."""
        key = (configuration, batch, mode)
        found = (row for row in self.rows if (row.configuration, row.batch, row.mode) == key and row.failed is None)
        return next(found, None)


def read_profile(path: Path) -> ProfileCard:
    """Read profile.json from this or another machine.

    Raises: UserError for a file that is not a profile, is invalid, or is of a newer distillkit.
    """
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"profile '{path}' cannot be read ({error.__cause__ or error}); give a JSON file written by "
            "`distillkit profile`"
        ) from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"'{path}' is not a profile; give a JSON file written by `distillkit profile`")
    if newer := newer_version(data, "schema_version", SCHEMA_VERSION):
        raise UserError(
            f"profile '{path}' has schema {newer} and this distillkit reads {SCHEMA_VERSION}; upgrade distillkit"
        )
    try:
        return ProfileCard.model_validate(data)
    except ValidationError as error:
        raise UserError(f"profile '{path}' is invalid: {first_problem(error)}; measure again") from None
