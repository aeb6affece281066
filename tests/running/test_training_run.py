"""`TrainingRun`: the stack from `run` and `resume` to the loop, and the order of the hooks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distillkit import RunInfo
from distillkit.plugin.registry import installed_plugins
from distillkit.running import one_pass, prepared, start, training_run
from distillkit.training import loop

TINY = {"training": {"steps": 2, "log_every": 1}, "trackers": []}


class Frames:
    """Records the functions on the stack from the loop to the library call at a logged step; `stop_at` ends the run."""

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.names: list[tuple[str, str]] = []

    def distillkit_steps_logged(self, record: Mapping[str, float]) -> None:
        self.names = []
        frame = inspect.currentframe()
        while frame is not None and (not self.names or self.names[-1][0] != start.__file__):
            file, name = frame.f_code.co_filename, frame.f_code.co_name
            if self.names or (file, name) == (loop.__file__, "train"):
                self.names.append((file, name))
            frame = frame.f_back
        if record["step"] == self.stop_at:
            raise KeyboardInterrupt


def test_the_frames_from_the_library_call_to_the_loop(recipe_of: Any, tmp_path: Path) -> None:
    first, second = Frames(stop_at=1), Frames()
    with pytest.raises(KeyboardInterrupt):
        start.run(recipe_of(TINY), tmp_path / "run", installed_plugins(), observers=[first])
    start.resume(tmp_path / "run", installed_plugins(), observers=[second])
    below = [(loop.__file__, "train"), (training_run.__file__, "run")]
    below += [(one_pass.__file__, name) for name in ("advance", "_send", "train")]
    below += [(prepared.__file__, "train_prepared")]
    assert first.names == [*below, (start.__file__, "run")]
    assert second.names == [*below, (start.__file__, "resume")]


class Calls:
    """Records the calls of life-cycle hooks, and whether student and result exist; the hook `fail_at` fails."""

    def __init__(self, fail_at: str = "") -> None:
        self.fail_at = fail_at
        self.seen: list[tuple[str, bool, bool]] = []

    def _called(self, hook: str, run: RunInfo) -> None:
        student, result = run.directory / "student.safetensors", run.directory / "result.json"
        self.seen.append((hook, student.is_file(), result.is_file()))
        if hook == self.fail_at:
            raise KeyboardInterrupt

    def distillkit_run_started(self, run: RunInfo) -> None:
        self._called("started", run)

    def distillkit_steps_logged(self, run: RunInfo) -> None:
        self._called("logged", run)

    def distillkit_run_ended(self, run: RunInfo) -> None:
        self._called("ended", run)

    def distillkit_run_failed(self, run: RunInfo) -> None:
        self._called("failed", run)


STARTED, LOGGED, FAILED = ("started", False, False), ("logged", False, False), ("failed", False, False)
ENDED = ("ended", True, False)


@pytest.mark.parametrize(
    ("fail_at", "seen"),
    [
        ("", [STARTED, LOGGED, LOGGED, ENDED]),
        ("started", [STARTED]),
        ("logged", [STARTED, LOGGED, FAILED]),
        ("ended", [STARTED, LOGGED, LOGGED, ENDED]),
    ],
)
def test_run_ended_is_called_after_the_student_is_saved_and_before_the_result_is_written(
    recipe_of: Any, tmp_path: Path, fail_at: str, seen: list[tuple[str, bool, bool]]
) -> None:
    calls = Calls(fail_at)
    plugins = installed_plugins()
    if fail_at:
        with pytest.raises(KeyboardInterrupt):
            start.run(recipe_of(TINY), tmp_path / "run", plugins, observers=[calls])
    else:
        start.run(recipe_of(TINY), tmp_path / "run", plugins, observers=[calls])
    assert calls.seen == seen
    assert (tmp_path / "run" / "result.json").is_file() == (not fail_at)
    start.run(recipe_of(TINY), tmp_path / "next", plugins)
    assert calls.seen == seen  # observers of the first run are not called for the second
