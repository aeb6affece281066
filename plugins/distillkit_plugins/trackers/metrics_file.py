"""metrics.jsonl: everything measured during a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from distillkit import RunInfo, read_metrics

FILE_NAME = "metrics.jsonl"


class MetricsFile:
    """Tracker that appends one JSON object per line; its `kind` is steps, epoch, note, end or failed, `time` is UTC.

    A resumed run drops the records after the step it resumes from, so that no step appears twice.
    """

    def distillkit_run_started(self, run: RunInfo) -> None:
        """Create the file, or cut it back to the step the run resumes from."""
        self._run = run
        kept = [record for record in read_metrics(run.directory) if _is_kept(record, run.start_step)]
        # Replaced in one step, so that a process killed here leaves the old file or the new one.
        run.write(FILE_NAME, "".join(_line(record) for record in kept))

    def distillkit_steps_logged(self, record: Mapping[str, float]) -> None:
        """One line per log interval."""
        self._append({"kind": "steps", **record})

    def distillkit_epoch_ended(self, record: Mapping[str, float]) -> None:
        """One line per epoch."""
        self._append({"kind": "epoch", **record})

    def distillkit_noted(self, step: int, note: str) -> None:
        """One line per problem that did not end the run."""
        self._append({"kind": "note", "step": step, "note": note})

    def distillkit_run_ended(self, record: Mapping[str, float]) -> None:
        """One line with the final figures."""
        self._append({"kind": "end", **record})

    def distillkit_run_failed(self, error: BaseException) -> None:
        """One line with the error that ended the run."""
        self._append({"kind": "failed", "error": type(error).__name__, "message": str(error)})

    def _append(self, record: Mapping[str, Any]) -> None:
        # Opened and closed for every line, so that a killed run keeps all earlier lines.
        self._run.append(FILE_NAME, _line({**record, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}))


def _is_kept(record: Mapping[str, Any], step: int) -> bool:
    """Whether a resumed run keeps a record: it was measured at or before `step`. From step 0 on, all is noted again."""
    measured = record.get("step")
    return (
        step > 0
        and record["kind"] in {"steps", "epoch", "note"}
        and isinstance(measured, int | float)
        and measured <= step
    )


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
