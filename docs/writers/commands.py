"""docs/reference/cli.md: the --help of the command line and of each command."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from distillkit_cli.main import app

# A fixed width and an otherwise empty environment, so that the page does not depend on the terminal or the machine.
PLAIN = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
PLAIN |= {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


def page() -> str:
    """One section for `distillkit` and one per command, in the order of registration."""
    commands = [(name,) for name in _names(app)]
    for group in app.registered_groups:
        commands += [(str(group.name), name) for name in _names(group.typer_instance)]
    return "\n\n".join(_section(*words) for words in ((), *commands))


def _names(group: typer.Typer | None) -> list[str]:
    return [command.callback.__name__ for command in group.registered_commands if command.callback] if group else []


def _section(*names: str) -> str:
    command = [sys.executable, "-m", "distillkit_cli.main", *names, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=PLAIN)
    text = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    return f"## `{' '.join(('distillkit', *names))}`\n\n```text\n{text}\n```"
