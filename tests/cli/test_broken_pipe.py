"""`distillkit ... | head`: a reader that has what it wanted is no error."""

import subprocess
import sys

import pytest

LINES = """
import sys
from distillkit_cli.terminal import Terminal
from distillkit_cli.main import app, command_line
@app.command("lines")
def lines():
    for number in range(100_000):
        Terminal().show(f"line {number}")
sys.exit(command_line(["lines"]))
"""
HELP = """
import sys
from distillkit_cli.main import main
sys.stdin.read()
main()
"""
NOTES = """
import sys
from distillkit_cli.terminal import Terminal
from distillkit_cli.main import app, command_line
@app.command("work")
def work():
    terminal = Terminal()
    sys.stdin.read()
    for number in range(3):
        terminal.note(f"step {number}")
    display = terminal.progress()
    display.line("step 3")
    display.close()
    terminal.show("finished")
sys.exit(command_line(["work"]))
"""
LEAVING = """
import sys
from distillkit_cli.main import app, command_line
@app.command("leave")
def leave():
    sys.exit(3)
sys.exit(command_line(["leave"]))
"""


def test_a_closed_pipe_ends_the_command_quietly():
    with subprocess.Popen(
        [sys.executable, "-c", LINES], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["data", "-h"], ["run", "--help"], []])
def test_a_closed_pipe_ends_the_help_quietly(arguments):
    with subprocess.Popen(
        [sys.executable, "-c", HELP, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert (process.wait(60), process.stderr.read()) == (0, "")


def test_work_continues_without_notes_after_their_reader_has_stopped():
    with subprocess.Popen(
        [sys.executable, "-c", NOTES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stderr.close()
        process.stdin.close()
        assert (process.stdout.read(), process.wait(60)) == ("finished\n", 0)


def test_an_exit_is_not_taken_for_a_stopped_reader():
    done = subprocess.run([sys.executable, "-c", LEAVING], stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == 3
