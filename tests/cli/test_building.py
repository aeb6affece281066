"""What is shown of a build: a line now and then, or bars where somebody watches."""

import io

from rich.console import Console

from distillkit_cli.building import building
from distillkit_cli.terminal import Terminal


def test_lines_come_once_in_ten_seconds():
    notes = io.StringIO()
    now = iter([0.0, 9.0, 10.5, 11.0])
    with building(Terminal(notes=Console(file=notes, width=80)), lambda: next(now)) as heard:
        for done in range(4):
            heard("Building Engine", done, 3)
    assert notes.getvalue() == "Building Engine: 0 of 3\nBuilding Engine: 2 of 3\n"


def test_nothing_is_said_where_nothing_is_built():
    notes = io.StringIO()
    with building(Terminal(notes=Console(file=notes, width=80))):
        pass
    assert notes.getvalue() == ""


def test_bars_are_those_of_the_phases_under_way_and_leave_nothing_behind():
    notes = io.StringIO()
    console = Console(file=notes, force_terminal=True, width=80)
    with building(Terminal(notes=console)) as heard:
        heard("Building Engine", 0, 2)
        heard("Tactic Selection", 0, 5)
        heard("Tactic Selection", 3, 5)
        assert [task.description for task in heard._bars.tasks] == ["Building Engine", "Tactic Selection"]
        assert [task.completed for task in heard._bars.tasks] == [0, 3]
        heard("Tactic Selection", 5, 5)
        heard("Empty", 0, 0)
        assert [task.description for task in heard._bars.tasks] == ["Building Engine"]
    assert "Building Engine" in notes.getvalue()
