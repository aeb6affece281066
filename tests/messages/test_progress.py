"""Progress display: lines with a simulated clock, and bars on a console that writes to a buffer."""

import io

import pytest
from rich.console import Console

from distillkit.messages.progress import ProgressDisplay


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def piped():
    return Console(file=io.StringIO(), width=80)


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def test_lines_are_written_every_ten_seconds_and_notes_at_once(piped, clock):
    display = ProgressDisplay(piped, clock=clock)
    for clock.seconds in (4.0, 10.0, 12.0, 19.9, 20.0):
        display.note(f"note at {clock.seconds}")
        display.show("image", 1, 2, "text", line=f"line at {clock.seconds}", below="below")
    display.remove("image")
    display.close()
    assert piped.file.getvalue().splitlines() == [
        "note at 4.0",
        "note at 10.0",
        "line at 10.0",
        "note at 12.0",
        "note at 19.9",
        "note at 20.0",
        "line at 20.0",
    ]


def test_the_first_line_can_be_written_at_once(piped, clock):
    display = ProgressDisplay(piped, first_line_s=0, clock=clock)
    for clock.seconds in (0.0, 9.0, 10.5):
        display.show("image", 1, 2, line=f"line at {clock.seconds}")
    assert piped.file.getvalue() == "line at 0.0\nline at 10.5\n"


def test_lines_are_not_wrapped_and_cannot_move_the_cursor(piped):
    ProgressDisplay(piped).note(f"{'long ' * 40}\n[bold]\x1b[2J")
    assert piped.file.getvalue() == f"{'long ' * 40}\n[bold]\\x1b[2J\n"


def test_the_time_left_is_estimated_from_the_mean_rate_since_the_restart(piped, clock):
    display = ProgressDisplay(piped, clock=clock)
    clock.seconds = 100.0
    display.restart()
    clock.seconds = 120.0
    assert display.elapsed_s == 20.0
    assert str(display.time_left(10, 30)) == "0:01:00"
    assert str(display.time_left(0, 30)) == "0:10:00"


def test_bars_fill_the_width_and_show_unknown_totals_and_unchanged_text(terminal):
    display = ProgressDisplay(terminal)
    display.show("step", 3, None, "[a] \x1b[2J", below="below [b]")
    display.show("image", 1, 4)
    display.show("image", 2, 4, "half", below="below [b]")
    display._bars.refresh()
    first, second, below = terminal.file.getvalue().splitlines()[-3:]
    assert first.split("\x1b[2K")[-1].split()[:2] == ["step", "3/?"]
    assert "[a] \\x1b[2J 0:00:00" in first
    assert second.split("\x1b[2K")[-1].startswith("image 2/4 ━")
    assert second.endswith("half        0:00:00")
    assert len(second.split("\x1b[2K")[-1]) == 80
    assert below.split("\x1b[2K")[-1].rstrip() == "below [b]"
    display.close()
    assert not display._bars.live.is_started
    display.close()


def test_closing_a_display_without_bars_writes_nothing(terminal, piped):
    for console in (terminal, piped):
        ProgressDisplay(console).close()
        assert console.file.getvalue() == ""


@pytest.mark.parametrize("make", [lambda console: console, lambda _: Console(file=io.StringIO(), width=80)])
def test_a_silent_display_shows_nothing(terminal, make):
    console = make(terminal)
    display = ProgressDisplay(console, silent=True, first_line_s=0)
    display.note("note")
    display.show("image", 1, 2, line="line")
    display.line("line")
    display.close()
    assert not display.is_interactive
    assert console.file.getvalue() == ""


def test_the_default_is_stderr(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    display = ProgressDisplay()
    display.note("note")
    assert not display.is_interactive
    assert tuple(capsys.readouterr()) == ("", "note\n")
