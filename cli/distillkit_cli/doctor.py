"""`distillkit doctor`: which runtimes work on this machine, and how to repair the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit_export.doctor.diagnosis import Diagnosis, RuntimeReport

STYLES = {"runs": "green", "does not run": "red", "not here": "dim"}


def doctor(context: typer.Context, *, as_json: Annotated[bool, JSON] = False) -> None:
    """Test every inference runtime on a tiny model, and say how to repair those that fail.

    Each runtime is tested in its own process, so that a crash is reported. torch is not needed.

    For example:
      distillkit doctor
      distillkit doctor --json
    """
    from distillkit.plugin.registry import installed_plugins
    from distillkit_export.doctor.diagnosis import diagnose

    terminal: Terminal = context.obj
    diagnosis = diagnose(installed_plugins(), lambda name: terminal.note(f"trying {name}"))
    if as_json:
        terminal.show_json(diagnosis.as_dict())
        return
    terminal.show_rows(_machine_rows(diagnosis))
    terminal.show("")
    terminal.show_table(_table(diagnosis.runtimes))
    for finding in diagnosis.findings:
        terminal.show("")
        terminal.show(finding)


def _machine_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Hardware and installed packages."""
    rows = [("python", f"{diagnosis.python} on {diagnosis.system}")]
    machine = diagnosis.machine
    if machine is None:
        return rows
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 2**30:.1f} GiB of memory"
    rows.append(("processor", f"{machine.processor}, {machine.cores} cores, {machine.cpus} CPUs{memory}"))
    for gpu in machine.gpus:
        size = "" if gpu.memory_mib is None else f", {gpu.memory_mib / 1024:.1f} GiB"
        rows.append(("gpu", f"{gpu.name}{size}, driver {gpu.driver}"))
    if not machine.gpus:
        rows.append(("gpu", "none found by nvidia-smi"))
    rows.append(
        ("packages", ", ".join(f"{name} {number}" for name, number in machine.software.items() if name != "python"))
    )
    return rows


def _table(reports: tuple[RuntimeReport, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("runtime", "here", "why"):
        table.add_column(column, header_style="dim", overflow="fold", no_wrap=column != "why")
    for report in reports:
        table.add_row(report.name, Text(report.verdict, STYLES[report.verdict]), Text(report.explanation))
    return table
