"""Settings that may change when a run is resumed, and the sentences about their changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillkit.errors import RunDirectoryError
from distillkit.messages.dotted_keys import differences
from distillkit.messages.text import command
from distillkit.recipe.schema import Recipe

EXACT = (
    "data.broken",
    "data.cache_mb",
    "data.finish",
    "data.workers",
    "training.keep",
    "training.log_every",
    "training.patience",
)
"""Keys that change no weight."""
INEXACT = ("data.finish", "training.device", "training.micro_batch_size", "training.threads")
"""Keys that change the result a little: the batches stay the same, but not the order of additions, nor, with another
micro-batch, the random draws inside the network."""

Changed = Mapping[str, tuple[Any, Any]]
"""The values of dotted keys before and now; None is a key that is not set."""


def changed_settings(started: Recipe, wanted: Recipe) -> Changed:
    """The keys that differ between the recipe of a run and the one to resume it with."""
    return differences(started.model_dump(), wanted.model_dump())


def fixed_settings(changed: Changed, started: Recipe) -> list[str]:
    """The keys among `changed` that must stay as they are in a run."""
    # One draw per micro-batch, so that another size mixes other images.
    mixes_batches = started.mixing.is_on and started.mixing.mode == "batch"
    fixed = {"training.micro_batch_size"} if mixes_batches else set()
    return [key for key in changed if key in fixed or key not in {*EXACT, *INEXACT}]


def check_resumable(changed: Changed, started: Recipe, *, source: Path | None) -> None:
    """Refuse changes of settings that must stay as they are; `source` is what `--from` accepts of the run, if anything.

    Raises: RunDirectoryError.
    """
    fixed = fixed_settings(changed, started)
    if not fixed:
        return
    if fixed == ["training.micro_batch_size"]:
        why = 'training.micro_batch_size cannot change in a run with mixing.mode = "batch", which mixes micro-batches'
    else:
        allowed = ", ".join(sorted({*EXACT, *INEXACT} - set(fixed)))
        why = f"{', '.join(fixed)} cannot change when a run is resumed, only {allowed} can"
    given = [word for key in fixed for word in ("--set", f"{key}={_typed(changed[key][1])}")]
    run = command("distillkit", "run", "--from", source or "", *given)
    new_run = f"start a new run: {run}" if source else "start again with another --out"
    raise RunDirectoryError(f"{why}; resume without it, or {new_run}")


def note_of_change(step: int, changed: Changed) -> str:
    """The note in the report on the settings that changed when the run was resumed after `step` steps."""
    values = ", ".join(f"{_setting(key, now)} instead of {_shown(before)}" for key, (before, now) in changed.items())
    inexact = any(key in INEXACT for key in changed)
    bits = ": same batches, but not bit-equal to an uninterrupted run" if inexact else ""
    return f"resumed after step {step:,} with {values}{bits}"


def as_entry(step: int, changed: Changed) -> dict[str, Any]:
    """The entry of plan.json for `note_of_change`."""
    return {"step": step, "changed": {key: {"before": before, "now": now} for key, (before, now) in changed.items()}}


def notes_of(entries: list[Mapping[str, Any]]) -> Iterator[str]:
    """The notes of the entries in plan.json."""
    for entry in entries:
        changed = {key: (each["before"], each["now"]) for key, each in entry["changed"].items()}
        yield note_of_change(entry["step"], changed)


def _setting(key: str, value: Any) -> str:
    return f"the default {key}" if value is None else f"{key} = {_shown(value)}"


def _shown(value: Any) -> str:
    return "the default" if value is None else json.dumps(value, ensure_ascii=False)


def _typed(value: Any) -> str:
    """A value as typed after --set."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
