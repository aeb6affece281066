"""Saved step: the skipped step at which a run gave up, saved so that `replay` needs no data set.

It is a checkpoint of the state before the step, below ``incidents/`` and named after the step. Additional parts are the
micro-batches as the models saw them, ``rank-0000.safetensors`` for the first process and so on; ``incident`` in
``state.json`` has the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
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
from torch import Tensor

from distillkit.data.batches import MicroBatch, Window
from distillkit.data.selection import Selection
from distillkit.errors import CheckpointError
from distillkit.messages.text import one_line
from distillkit.messages.validation import first_problem
from distillkit.running.checkpoint import Checkpoint, read_checkpoint, write_files
from distillkit.running.directory import environment
from distillkit.running.system_faults import is_disk_full
from distillkit.storage.atomic import write_tensors
from distillkit.storage.links import own_folder

if TYPE_CHECKING:
    from distillkit.running.session import TrainingSession
    from distillkit.training.skipped_steps import Skipped


class SavedMicroBatch(BaseModel):
    """A micro-batch: keys and training set indices of its images, and its contribution to the average of each term."""

    model_config = ConfigDict(ser_json_inf_nan="strings")  # JSON has no NaN or infinity

    keys: tuple[str, ...]
    indices: tuple[int | None, ...]
    terms: dict[str, float]

    @model_validator(mode="after")
    def _one_index_per_image(self) -> SavedMicroBatch:
        if len(self.keys) != len(self.indices):
            raise ValueError(f"keys and indices have different lengths: {len(self.keys)} and {len(self.indices)}")
        return self


class SavedIncident(BaseModel):
    """`incident` in state.json; `micro_batches` are by rank."""

    epoch: PositiveInt
    reason: str
    terms: tuple[str, ...]
    in_a_row: PositiveInt
    samples: PositiveInt
    labelled: NonNegativeInt
    precision: Literal["float32", "bfloat16", "float16"]
    environment: dict[str, Any]
    micro_batches: tuple[Annotated[tuple[SavedMicroBatch, ...], Field(min_length=1)], ...] = Field(min_length=1)


_MICRO_BATCHES = TypeAdapter(tuple[SavedMicroBatch, ...])


@dataclass(frozen=True)
class SavedStep:
    """A saved step: the state before it, and the windows of all processes by rank."""

    directory: Path
    incident: SavedIncident
    before: Checkpoint
    windows: tuple[Window, ...]


def save_step(directory: Path, session: TrainingSession, window: Window, skipped: Skipped) -> str:
    """Save the current step below `directory`. Every process calls this and writes its batch, the first one the rest.

    Returns: why it could not be saved, or "". Not an exception: the run is about to end with a more important error.
    """
    processes = session.processes
    files = [directory / f".step-{skipped.step:08d}.{_part(rank)}" for rank in range(processes.world)]
    own = files[processes.rank]
    problem = micro_batches = ""
    try:
        own_folder(directory)
        write_tensors(own, dict(_tensors(window)))
        micro_batches = _MICRO_BATCHES.dump_json(_described(session, window, skipped)).decode()
    except (OSError, SafetensorError) as error:
        problem = _sentence(error)
    # Also after a problem: the other processes wait here, and no file of theirs may be moved before it is written.
    gathered = processes.gather(json.dumps([problem, micro_batches]))
    if processes.is_first:
        problems, by_rank = zip(*map(json.loads, gathered), strict=True)
        problem = next(filter(None, problems), "")
        try:
            if not problem:
                incident = _incident(session, window, skipped, tuple(map(_MICRO_BATCHES.validate_json, by_rank)))
                write_files(
                    directory,
                    _checkpoint(session, window, skipped, incident),
                    moved={_part(rank): file for rank, file in enumerate(files)},
                )
        except (OSError, SafetensorError) as error:
            problem = _sentence(error)
    problem = processes.broadcast(problem)
    with suppress(OSError):
        own.unlink(missing_ok=True)  # there only if it was not moved into the checkpoint
    return problem


def read_saved_step(path: Path) -> SavedStep:
    """Read a saved step into CPU tensors.

    Raises: CheckpointError as `read_checkpoint`, and where `incident` or a micro-batch is missing or invalid.
    """
    checkpoint = read_checkpoint(path)
    try:
        incident = SavedIncident.model_validate(checkpoint.state["incident"])
        windows = tuple(
            _window(checkpoint.step, incident, rank, checkpoint.parts[_part(rank)])
            for rank in range(len(incident.micro_batches))
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be replayed: its saved step is missing or invalid ({_why_invalid(error)})"
        ) from error
    return SavedStep(path, incident, checkpoint, windows)


def _why_invalid(error: KeyError | ValueError) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return first_problem(error) if isinstance(error, ValidationError) else one_line(error)


def _sentence(error: Exception) -> str:
    return "the disk is full" if is_disk_full(error) else one_line(error)


def _checkpoint(session: TrainingSession, window: Window, skipped: Skipped, incident: SavedIncident) -> Checkpoint:
    """The state before the step. A skipped step changes only the fp16 loss scale, which is set back here."""
    before = session.checkpoint(window.step, {})
    state = {**before.state, "incident": json.loads(incident.model_dump_json())}
    scaler = session.optimisation.scaler
    if scaler.is_enabled():
        state["scaler"] = scaler.state_dict() | {"scale": scaler.get_scale() / scaler.get_backoff_factor()}
    return replace(before, step=skipped.step, state=state)


def _incident(
    session: TrainingSession, window: Window, skipped: Skipped, micro_batches: tuple[tuple[SavedMicroBatch, ...], ...]
) -> SavedIncident:
    return SavedIncident(
        epoch=window.epoch + 1,
        reason=skipped.reason,
        terms=skipped.terms,
        in_a_row=skipped.in_a_row,
        samples=window.samples,
        labelled=window.labelled,
        precision=cast("Any", str(session.precision).removeprefix("torch.")),
        environment=environment(session.device),
        micro_batches=micro_batches,
    )


def _described(session: TrainingSession, window: Window, skipped: Skipped) -> tuple[SavedMicroBatch, ...]:
    """Description of the micro-batches of this process."""
    indices = _indices(session, {key for batch in window.micro_batches for key in batch.keys})
    return tuple(
        SavedMicroBatch(
            keys=batch.keys,
            indices=tuple(indices.get(key) for key in batch.keys),
            terms={name: float(value) for name, value in part.items()},
        )
        for batch, part in zip(window.micro_batches, skipped.outcome.parts, strict=True)
    )


def _indices(session: TrainingSession, keys: set[str]) -> dict[str, int]:
    """Training set indices of images by key; empty for a stream."""
    source = session.plan.datasets.train
    if not isinstance(source, Selection):
        return {}
    return {key: index for index, key in enumerate(source.all_keys()) if key in keys}


def _part(rank: int) -> str:
    return f"rank-{rank:04d}"


def _tensors(window: Window) -> Iterator[tuple[str, Tensor]]:
    for number, batch in enumerate(window.micro_batches):
        yield f"{number}.images", batch.images.cpu().contiguous()
        yield f"{number}.label_mass", batch.label_mass.cpu().contiguous()
        if batch.labels is not None:
            yield f"{number}.labels", batch.labels.cpu().contiguous()


def _window(step: int, incident: SavedIncident, rank: int, tensors: Mapping[str, Tensor]) -> Window:
    """The window of one process."""
    micro_batches = tuple(
        _micro_batch(number, saved.keys, tensors) for number, saved in enumerate(incident.micro_batches[rank])
    )
    return Window(step - 1, incident.epoch - 1, False, micro_batches, incident.samples, incident.labelled)


def _micro_batch(number: int, keys: tuple[str, ...], tensors: Mapping[str, Tensor]) -> MicroBatch:
    """One micro-batch of b images: images [b, C, H, W], labels [b, K] or None, label_mass [b].

    Raises: KeyError for a missing tensor; ValueError for one of another shape or dtype.
    """
    names = {"images": 4, "label_mass": 1} | ({"labels": 2} if f"{number}.labels" in tensors else {})
    parts = {name: tensors[f"{number}.{name}"] for name in names}
    for name, tensor in parts.items():
        if tensor.dtype != torch.float32 or tensor.dim() != names[name] or len(tensor) != len(keys):
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            raise ValueError(f"{number}.{name} of {len(keys)} images is {shape} {tensor.dtype}")
    return MicroBatch(parts["images"], parts.get("labels"), parts["label_mass"], keys)
