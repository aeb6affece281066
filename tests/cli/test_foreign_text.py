"""Names of classes, files and models in results: on one line, no control characters or markup; JSON stays valid."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console
from rich.table import Table

from distillkit.errors import UserError
from distillkit_cli.terminal import Terminal

NAMES = {
    "cat\x9b2J": r"cat\x9b2J",
    "dog\nerror: gone": r"dog\nerror: gone",
    "key\n  error: gone": r"key\n  error: gone",
    "\x1b]8;;http://a\x07b": r"\x1b]8;;http://a\x07b",
    "[red]a[/b]": "[red]a[/b]",
    "\u202eevil": r"\u202eevil",
    "a\xa0b": r"a\xa0b",
    "\U000e0041": r"\U000e0041",
    "c\udcff": r"c\udcff",
}


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def terminal(request):
    console = Console(
        file=io.StringIO(), width=200, force_terminal=request.param, no_color=True, highlight=False, emoji=False
    )
    return Terminal(results=console, notes=console)


def written(terminal):
    """What was written, without the styles of headings."""
    return re.sub(r"\x1b\[[0-4]m", "", terminal.results.file.getvalue())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_table_is_one_cell_of_text(terminal, name):
    """Promise: names of classes, files and models are text.

    Attempt: a class whose name moves the cursor, breaks the line, or contains markup and links of a terminal.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("images")
    table.add_row(name, "20")
    terminal.show_table(table)
    lines = [line.split() for line in written(terminal).splitlines()]
    assert lines == [["class", "images"], [*NAMES[name].split(), "20"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_rows_is_one_line_of_text(terminal, name):
    """Promise: names of classes, files and models are text.

    Attempt: the same names in the result of `evaluate` and in a plan.
    """
    terminal.show_rows([(name, name)])
    assert [line.rstrip() for line in written(terminal).splitlines()] == [f"{NAMES[name]}  {NAMES[name]}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_an_error_stays_on_its_line(terminal, name):
    """Promise: names of classes, files and models are text.

    Attempt: a key, tensor or path whose line break is followed by blanks, as before the items of a list.
    """
    for error in (UserError(f"unknown key '{name}'"), UserError("2 problems", f"unknown key '{name}'", "no steps")):
        terminal.error(error)
    lines = [line.rstrip() for line in written(terminal).splitlines()]
    assert lines == [
        f"error: unknown key '{NAMES[name]}'",
        "error: 2 problems",
        f"  unknown key '{NAMES[name]}'",
        "  no steps",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_json_with_any_name_is_valid_and_printable(terminal, name):
    """Promise: names of classes, files and models are text.

    Attempt: the same names in --json, in which other programs look for them.
    """
    terminal.show_json({name: [name]})
    text = written(terminal)
    assert json.loads(text) == {name: [name]}
    assert all(each.isprintable() for each in text.replace("\n", ""))
