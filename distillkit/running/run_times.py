"""When a run started, with which command, and how long it took. Stands in environment.json and result.json."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distillkit.storage.untrusted import read_json


def start_facts() -> dict[str, str]:
    """Date (UTC) and command line of this process, for environment.json."""
    return {"started": _now().isoformat(timespec="seconds"), "command": command_line(sys.argv)}


def run_times(environment: Path) -> dict[str, Any]:
    """Command line, start and end (UTC) of a run, and the seconds between them, in which it may have been stopped.

    Runs of earlier versions have no start; for them only the end is known.
    """
    finished = _now()
    facts: dict[str, Any] = {"finished": finished.isoformat(timespec="seconds")}
    try:
        written: dict[str, Any] = read_json(environment)
        started = datetime.fromisoformat(written["started"])
        return {
            "command": str(written["command"]),
            "started": written["started"],
            **facts,
            "duration_s": round((finished - started).total_seconds(), 1),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return facts


def command_line(arguments: list[str]) -> str:
    """The command as it can be typed again; a script is named without its folder.

    >>> command_line(["/usr/bin/distillkit", "run", "--data", "my data"])
    "distillkit run --data 'my data'"
    >>> command_line(["/usr/train.py", "--fast"])
    'python train.py --fast'
    """
    program, *rest = arguments or [""]
    path = Path(program)
    is_ours = path.stem == "distillkit" or (path.name == "__main__.py" and path.parent.name.startswith("distillkit"))
    return shlex.join(["distillkit", *rest] if is_ours else ["python", path.name, *rest])


def _now() -> datetime:
    return datetime.now(UTC)
