"""Terminal output: streams, width and colour."""

import os
import pty
import subprocess
import sys

import pytest
from rich.table import Table

from distillkit_cli.terminal import Terminal

LONG = "word " * 40 + "end"


def test_results_go_to_stdout_and_notes_to_stderr(capsys):
    terminal = Terminal()
    terminal.show("a [bold]result[/bold] :smile:")
    terminal.note("a note")
    terminal.error("a mistake")
    assert capsys.readouterr() == ("a [bold]result[/bold] :smile:\n", "a note\nerror: a mistake\n")


def test_quiet_prints_results_and_errors(capsys):
    terminal = Terminal(quiet=True)
    terminal.show("a result")
    terminal.note("a note")
    terminal.error("a mistake")
    assert capsys.readouterr() == ("a result\n", "error: a mistake\n")


def test_rows_wrap_at_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    Terminal().show_rows([("data", "one two three four five"), ("", "more"), ("steps", "7")])
    assert capsys.readouterr().out == ("data   one two three\n       four five\n       more\nsteps  7\n")


def test_lines_are_not_wrapped_in_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    terminal = Terminal()
    table = Table(box=None, pad_edge=False)
    table.add_column("name")
    table.add_row(LONG)
    terminal.show_table(table)
    terminal.show_rows([("a", LONG)])
    terminal.show(LONG)
    assert capsys.readouterr().out == f"name\n{LONG}\na  {LONG}\n{LONG}\n"


def test_json_is_indented_and_not_escaped(capsys):
    Terminal().show_json({"name": "Käse", "list": [1]})
    assert capsys.readouterr().out == '{\n  "name": "Käse",\n  "list": [\n    1\n  ]\n}\n'


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_terminal_is_coloured_unless_no_color_is_set(extra, coloured):
    environment = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
    environment |= {"TERM": "xterm-256color", **extra}
    program = (
        "from distillkit_cli.terminal import Terminal; t = Terminal(); t.error('x'); print(t.progress().is_interactive)"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True, text=True
    )
    os.close(theirs)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert done.stdout == "True\n"
    # NO_COLOR is about colour: bold stays. 31 is red.
    assert ("31m" in shown) == coloured
    assert shown.endswith("x\r\n")


def test_a_pipe_is_not_interactive(capsys):
    assert not Terminal().progress().is_interactive


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error there")
@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "--json"], ["recipes"], ["recipes", "digits"], ["-h"]])
def test_closed_stdout_ends_the_command_quietly(arguments):
    """As in `distillkit plugins | head -1`, with a reader that has ended before the first line."""
    theirs, ours = os.pipe()
    os.close(theirs)
    program = [sys.executable, "-c", "from distillkit_cli.main import main; main()", *arguments]
    done = subprocess.run(program, stdout=ours, stderr=subprocess.PIPE, text=True, check=False)
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, "")
