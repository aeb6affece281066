"""The bar of a verb that counts something up to a number it learns later: images that are read, steps of a profile."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from distillkit_cli.terminal import Terminal


def counting_bar(terminal: Terminal, unit: str) -> tuple[Progress, TaskID]:
    """A bar that is not shown yet, and the task in it that counts; it goes when it is stopped."""
    bar = Progress(
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=terminal.notes,
        transient=True,
    )
    return bar, bar.add_task("", total=None)
