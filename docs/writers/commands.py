"""The page about the command line: what the command and each of its verbs say to --help."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from distillkit_cli.main import app

# The width at which help is written down, and nothing of the terminal or the machine that happens to be there.
PLAIN = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
PLAIN |= {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


def page() -> str:
    """The help of the command and of each of its verbs, in its own order."""
    verbs = [(name,) for name in _names(app)]
    for group in app.registered_groups:
        verbs += [(str(group.name), name) for name in _names(group.typer_instance)]
    return "\n\n".join(_section(*words) for words in ((), *verbs))


def _names(group: typer.Typer | None) -> list[str]:
    return [command.callback.__name__ for command in group.registered_commands if command.callback] if group else []


def _section(*verb: str) -> str:
    command = [sys.executable, "-m", "distillkit_cli.main", *verb, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=PLAIN)
    text = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    return f"## `{' '.join(('distillkit', *verb))}`\n\n```text\n{text}\n```"
