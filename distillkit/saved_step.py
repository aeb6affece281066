"""A step that could not be taken, saved so that it can be taken again: the state before it, and every process's batch.

A saved step is a directory ``step-00000123`` with the checkpoint of the state before it (``step-00000122``), one
safetensors file per process with its micro-batches as the models saw them, and ``incident.json``, written last. Like a
checkpoint it is whole or not there, and holds no pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distillkit.checkpoint import Checkpoint, checkpoints, read_checkpoint, write_checkpoint
from distillkit.data.batches import MicroBatch, Window
from distillkit.data.selection import Selection
from distillkit.errors import CheckpointError, DistillkitError, one_line, shortened
from distillkit.files import sha256, whole_directory, write_json, write_tensors
from distillkit.plain_files import read_json, require_plain
from distillkit.recipe import Positive
from distillkit.run_directory import environment

if TYPE_CHECKING:
    from distillkit.session import Session
    from distillkit.training.watch import Skipped

FORMAT = 1
INCIDENT = "incident.json"


class WrittenBatch(BaseModel, strict=True):
    """What incident.json says of a micro-batch."""

    keys: list[str]
    indices: list[int | None]
    terms: dict[str, float | Literal["nan", "inf", "-inf"]]


class WrittenIncident(BaseModel, strict=True):
    """What is read of incident.json."""

    step: Positive
    epoch: Positive
    reason: str
    samples: Positive
    labelled: int
    precision: Literal["float32", "bfloat16", "float16"]
    files: dict[str, str]
    micro_batches: Annotated[list[Annotated[list[WrittenBatch], Field(min_length=1)]], Field(min_length=1)]


@dataclass(frozen=True)
class SavedStep:
    """What was read back: `facts` as in incident.json, the state before the step, and by rank what each process saw."""

    directory: Path
    facts: Mapping[str, Any]
    before: Checkpoint
    windows: tuple[Window, ...]


def save_step(directory: Path, session: Session, window: Window, skipped: Skipped) -> str:
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
    mine = {"trouble": trouble, "micro_batches": _described(session, window, skipped)}
    everyones = [json.loads(said) for said in processes.gather(json.dumps(mine))]
    if processes.is_first:
        trouble = next((said["trouble"] for said in everyones if said["trouble"]), "")
        trouble = trouble or _assembled(final, session, window, skipped, [said["micro_batches"] for said in everyones])
    return processes.from_first(trouble)


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
        facts = read_json(path / INCIDENT)
        if facts["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {shortened(str(facts['format']))}; this version of distillkit reads format {FORMAT}"
            )
        WrittenIncident.model_validate(facts)
        ranks = [_rank_file(rank) for rank in range(len(facts["micro_batches"]))]
        if sorted(facts["files"]) != ranks:
            raise CheckpointError(
                f"{path} is damaged: {INCIDENT} does not list the file of every process, and no other"
            )
        for name, digest in facts["files"].items():
            require_plain(path / name)
            if sha256(path / name) != digest:
                raise CheckpointError(f"{path} is damaged: {name} is not as it was written")
        windows = tuple(
            _window(facts, parts, load_file(path / _rank_file(rank)))
            for rank, parts in enumerate(facts["micro_batches"])
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is damaged: {Path(error.filename).name} is missing") from error
    except (OSError, LookupError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        why = shortened(one_line(error))
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}: {why})") from error
    states = checkpoints(path)
    if not states:
        raise CheckpointError(f"{path} is damaged: the state before the step is missing")
    return SavedStep(path, facts, read_checkpoint(states[0]), windows)


def _assembled(final: Path, session: Session, window: Window, skipped: Skipped, described: list[Any]) -> str:
    """Put everything together; returns why it could not be, or nothing."""
    try:
        with whole_directory(final) as temporary:
            files = {}
            for rank in range(session.processes.world):
                name = _rank_file(rank)
                final.with_name(f".{final.name}.{name}").replace(temporary / name)
                files[name] = sha256(temporary / name)
            write_checkpoint(temporary, _before(session, window), keep=1)
            write_json(
                temporary / INCIDENT, _facts(session, window, skipped) | {"files": files, "micro_batches": described}
            )
    except (OSError, DistillkitError) as error:
        return one_line(error)
    return ""


def _facts(session: Session, window: Window, skipped: Skipped) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "step": skipped.step,
        "epoch": window.epoch + 1,
        "reason": skipped.reason,
        "terms": list(skipped.terms),
        "in_a_row": skipped.in_a_row,
        "samples": window.samples,
        "labelled": window.labelled,
        "precision": str(session.precision).removeprefix("torch."),
        "environment": environment(session.device),
    }


def _before(session: Session, window: Window) -> Checkpoint:
    """The state before the step: a skipped step leaves all of it as it was but the scale of fp16, which it lowered."""
    checkpoint = session.checkpoint(window.step, {})
    scaler = session.optimisation.scaler
    if not scaler.is_enabled():
        return checkpoint
    scale = scaler.get_scale() / scaler.get_backoff_factor()
    return replace(checkpoint, state={**checkpoint.state, "scaler": scaler.state_dict() | {"scale": scale}})


def _described(session: Session, window: Window, skipped: Skipped) -> list[dict[str, Any]]:
    """Of each of this process's micro-batches which images it has, and what its terms add to their averages."""
    places = _places(session, {key for batch in window.micro_batches for key in batch.keys})
    return [
        {
            "keys": list(batch.keys),
            "indices": [places.get(key) for key in batch.keys],
            "terms": {name: _number(float(value)) for name, value in part.items()},
        }
        for batch, part in zip(window.micro_batches, skipped.outcome.parts, strict=True)
    ]


def _places(session: Session, keys: set[str]) -> dict[str, int]:
    """The places of images in the training set, by key; none in a stream."""
    source = session.plan.datasets.train
    if not isinstance(source, Selection):
        return {}
    return {key: place for place, key in enumerate(source.all_keys()) if key in keys}


def _number(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)


def _rank_file(rank: int) -> str:
    return f"rank-{rank:04d}.safetensors"


def _tensors(window: Window) -> Iterator[tuple[str, Tensor]]:
    for number, batch in enumerate(window.micro_batches):
        yield f"{number}.images", batch.images.cpu().contiguous()
        yield f"{number}.label_mass", batch.label_mass.cpu().contiguous()
        if batch.labels is not None:
            yield f"{number}.labels", batch.labels.cpu().contiguous()


def _window(facts: Mapping[str, Any], parts: list[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> Window:
    """What one process saw."""
    micro_batches = tuple(
        MicroBatch(
            tensors[f"{number}.images"],
            tensors.get(f"{number}.labels"),
            tensors[f"{number}.label_mass"],
            tuple(part["keys"]),
        )
        for number, part in enumerate(parts)
    )
    return Window(facts["step"] - 1, facts["epoch"] - 1, False, micro_batches, facts["samples"], facts["labelled"])
