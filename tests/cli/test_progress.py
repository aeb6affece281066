"""Progress of `data check`, `profile` and `export`: lines in a pipe, bars on a terminal."""

import io

import pytest
from rich.console import Console

from distillkit.messages.progress import ProgressDisplay
from distillkit_cli.progress import ProfileProgress, show_build_step, show_images_read


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def piped():
    return Console(file=io.StringIO(), width=80)


@pytest.fixture
def watched():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def test_data_check_prints_a_line_every_ten_seconds(piped, clock):
    display = ProgressDisplay(piped, clock=clock)
    for clock.seconds, images in ((4.0, 40), (10.0, 100), (12.0, 120), (20.0, 200)):
        show_images_read(display, images, 1000)
    display.close()
    assert piped.file.getvalue() == (
        "100 of 1,000 images read; 10 images/s, 0:01:30 left\n200 of 1,000 images read; 10 images/s, 0:01:20 left\n"
    )


def test_data_check_shows_a_bar_on_a_terminal(watched, clock):
    display = ProgressDisplay(watched, clock=clock)
    assert watched.file.getvalue() == ""  # the bar starts with the first image
    clock.seconds = 2.0
    show_images_read(display, 100, 400)
    display.close()
    assert "100/400" in watched.file.getvalue()
    assert "50 images/s, 0:00:06 left" in watched.file.getvalue()


def test_profile_prints_step_rate_and_time_left_every_ten_seconds(piped, clock):
    display = ProgressDisplay(piped, clock=clock)
    progress = ProfileProgress(display)
    progress.begin("loading a")
    for step in range(1, 5):
        clock.seconds += 6.0
        progress.done(step, 10)
    display.close()
    assert piped.file.getvalue().splitlines() == [
        "step 2/10: loading a; 10 steps/min, 0:00:48 left",
        "step 4/10: loading a; 10 steps/min, 0:00:36 left",
    ]


def test_profile_bar_starts_at_once_and_keeps_its_count(watched, clock):
    display = ProgressDisplay(watched, clock=clock)
    progress = ProfileProgress(display)
    assert "step 0/?" in watched.file.getvalue()
    clock.seconds = 6.0
    progress.done(1, 4)
    progress.begin("loading b")
    display._bars.refresh()
    last = watched.file.getvalue().splitlines()[-1].split("\x1b[2K")[-1]
    assert last.startswith("step 1/4 ━")
    assert last.endswith("loading b 0:00:00")
    display.close()


def test_build_prints_a_line_at_once_and_then_every_ten_seconds(piped, clock):
    display = ProgressDisplay(piped, first_line_s=0, clock=clock)
    for done, clock.seconds in enumerate((0.0, 9.0, 10.5, 11.0)):
        show_build_step(display, "Building Engine", done, 3)
    assert piped.file.getvalue() == "Building Engine: 0 of 3\nBuilding Engine: 2 of 3\n"


def test_build_shows_a_bar_per_running_phase(watched):
    display = ProgressDisplay(watched)
    show_build_step(display, "Building Engine", 0, 2)
    show_build_step(display, "Tactic Selection", 0, 5)
    show_build_step(display, "Tactic Selection", 3, 5)
    assert [task.description for task in display._bars.tasks] == ["Building Engine", "Tactic Selection"]
    assert [task.completed for task in display._bars.tasks] == [0, 3]
    show_build_step(display, "Tactic Selection", 5, 5)
    show_build_step(display, "Empty", 0, 0)
    assert [task.description for task in display._bars.tasks] == ["Building Engine"]
    assert "Building Engine" in watched.file.getvalue()
    display.close()
