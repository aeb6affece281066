"""A step that could not be taken, saved so that it can be taken again: the state before it, and every process's batch.

A saved step is a directory ``step-00000123`` with the checkpoint of the state before it (``step-00000122``), one
safetensors file per process with its micro-batches as the models saw them, and ``incident.json``, written last. Like a
checkpoint it is whole or not there, and holds no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distillkit.data.batches import MicroBatch, Window
from distillkit.data.selection import Selection
from distillkit.errors import CheckpointError, TrainingError
from distillkit.messages.text import one_line
from distillkit.running.checkpoint import (
    Checkpoint,
    checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from distillkit.running.directory import environment
from distillkit.storage.atomic import sha256, whole_directory, write_tensors, write_text
from distillkit.storage.untrusted import read_json

if TYPE_CHECKING:
    from distillkit.running.session import TrainingSession
    from distillkit.training.skipped_steps import Skipped

INCIDENT = "incident.json"


class SavedMicroBatch(BaseModel):
    """A micro-batch: its images by key and by place in the training set, and what each term adds to its average.

    What is not finite is text in JSON, which has no word for it.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    keys: tuple[str, ...]
    indices: tuple[int | None, ...]
    terms: dict[str, float]

    @model_validator(mode="after")
    def _one_place_per_image(self) -> SavedMicroBatch:
        if len(self.keys) != len(self.indices):
            raise ValueError("as many indices as keys")
        return self


class SavedStepFile(BaseModel):
    """incident.json. `micro_batches` are by rank; `files` have their SHA-256."""

    format: Literal[1] = 1
    step: PositiveInt
    epoch: PositiveInt
    reason: str
    terms: tuple[str, ...]
    in_a_row: PositiveInt
    samples: PositiveInt
    labelled: NonNegativeInt
    precision: Literal["float32", "bfloat16", "float16"]
    environment: dict[str, Any]
    files: dict[str, str]
    micro_batches: tuple[Annotated[tuple[SavedMicroBatch, ...], Field(min_length=1)], ...] = Field(min_length=1)


_PARTS = TypeAdapter(tuple[SavedMicroBatch, ...])


@dataclass(frozen=True)
class SavedStep:
    """What was read back: incident.json, the state before the step, and by rank what each process saw."""

    directory: Path
    facts: SavedStepFile
    before: Checkpoint
    windows: tuple[Window, ...]


def save_step(directory: Path, session: TrainingSession, window: Window, skipped: Skipped) -> str:
    """Save the step at hand below `directory`. Every process calls it; each writes its batch, the first one the rest.

    Returns: why it could not be saved, or nothing; the run ends in any case, for another reason.
    """
    processes = session.processes
    final = step_at(directory, skipped.step)
    file = final.with_name(f".{final.name}.{_rank_file(processes.rank)}")
    trouble = ""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_tensors(file, dict(_tensors(window)))
    except (OSError, SafetensorError) as error:
        trouble = one_line(error)
    parts = "" if trouble else _PARTS.dump_json(_described(session, window, skipped)).decode()
    said = processes.gather(json.dumps([trouble, parts]))
    if processes.is_first:
        troubles, everyones = zip(*map(json.loads, said), strict=True)
        trouble = next(filter(None, troubles), "")
        trouble = trouble or _assembled(final, session, window, skipped, tuple(map(_PARTS.validate_json, everyones)))
    trouble = processes.from_first(trouble)
    with suppress(OSError):
        file.unlink(missing_ok=True)  # where it found no place in the whole
    return trouble


def step_at(directory: Path, step: int) -> Path:
    """Where a saved step lies, counted from 1."""
    return directory / f"step-{step:08d}"


def saved_steps(directory: Path) -> list[Path]:
    """The saved steps below `directory`, in order."""
    return sorted(path.parent for path in directory.glob(f"step-*/{INCIDENT}"))


def read_saved_step(path: Path) -> SavedStep:
    """Read a saved step into CPU tensors, once every file is known to be as it was written.

    Raises: CheckpointError where one is missing, torn or altered, or the format is another.
    """
    try:
        facts = SavedStepFile.model_validate(read_json(path / INCIDENT))
        for name, digest in facts.files.items():
            if sha256(path / name) != digest:
                raise CheckpointError(f"{path} is damaged: {name} is not as it was written")
        windows = tuple(
            _window(facts, parts, load_file(path / _rank_file(rank))) for rank, parts in enumerate(facts.micro_batches)
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is damaged: {Path(error.filename).name} is missing") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {INCIDENT} is not as it was written") from error
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}: {one_line(error)})") from error
    states = checkpoints(path)
    if not states:
        raise CheckpointError(f"{path} is damaged: the state before the step is missing")
    return SavedStep(path, facts, read_checkpoint(states[0]), windows)


def _assembled(
    final: Path,
    session: TrainingSession,
    window: Window,
    skipped: Skipped,
    described: tuple[tuple[SavedMicroBatch, ...], ...],
) -> str:
    """Put everything together; returns why it could not be, or nothing."""
    try:
        with whole_directory(final) as temporary:
            files = {}
            for rank in range(session.processes.world):
                name = _rank_file(rank)
                final.with_name(f".{final.name}.{name}").replace(temporary / name)
                files[name] = sha256(temporary / name)
            write_checkpoint(temporary, _before(session, window), keep=1)
            facts = SavedStepFile(
                step=skipped.step,
                epoch=window.epoch + 1,
                reason=skipped.reason,
                terms=skipped.terms,
                in_a_row=skipped.in_a_row,
                samples=window.samples,
                labelled=window.labelled,
                precision=cast("Any", str(session.precision).removeprefix("torch.")),
                environment=environment(session.device),
                files=files,
                micro_batches=described,
            )
            write_text(temporary / INCIDENT, facts.model_dump_json(indent=2) + "\n")
    except TrainingError:
        return "the disk is full"  # what that says of checkpoints and how to continue is of no use here
    except (OSError, SafetensorError) as error:
        return one_line(error)
    return ""


def _before(session: TrainingSession, window: Window) -> Checkpoint:
    """The state before the step: a skipped step leaves all of it as it was but the scale of fp16, which it lowered."""
    checkpoint = session.checkpoint(window.step, {})
    scaler = session.optimisation.scaler
    if not scaler.is_enabled():
        return checkpoint
    scale = scaler.get_scale() / scaler.get_backoff_factor()
    return replace(checkpoint, state={**checkpoint.state, "scaler": scaler.state_dict() | {"scale": scale}})


def _described(session: TrainingSession, window: Window, skipped: Skipped) -> tuple[SavedMicroBatch, ...]:
    """The micro-batches of this process."""
    places = _places(session, {key for batch in window.micro_batches for key in batch.keys})
    return tuple(
        SavedMicroBatch(
            keys=batch.keys,
            indices=tuple(places.get(key) for key in batch.keys),
            terms={name: float(value) for name, value in part.items()},
        )
        for batch, part in zip(window.micro_batches, skipped.outcome.parts, strict=True)
    )


def _places(session: TrainingSession, keys: set[str]) -> dict[str, int]:
    """The places of images in the training set, by key; none in a stream."""
    source = session.plan.datasets.train
    if not isinstance(source, Selection):
        return {}
    return {key: place for place, key in enumerate(source.all_keys()) if key in keys}


def _rank_file(rank: int) -> str:
    return f"rank-{rank:04d}.safetensors"


def _tensors(window: Window) -> Iterator[tuple[str, Tensor]]:
    for number, batch in enumerate(window.micro_batches):
        yield f"{number}.images", batch.images.cpu().contiguous()
        yield f"{number}.label_mass", batch.label_mass.cpu().contiguous()
        if batch.labels is not None:
            yield f"{number}.labels", batch.labels.cpu().contiguous()


def _window(facts: SavedStepFile, parts: tuple[SavedMicroBatch, ...], tensors: Mapping[str, Tensor]) -> Window:
    """What one process saw."""
    micro_batches = tuple(
        MicroBatch(
            tensors[f"{number}.images"], tensors.get(f"{number}.labels"), tensors[f"{number}.label_mass"], part.keys
        )
        for number, part in enumerate(parts)
    )
    return Window(facts.step - 1, facts.epoch - 1, False, micro_batches, facts.samples, facts.labelled)
