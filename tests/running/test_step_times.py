"""Measured times of a plan: what they mean, and after how many uses a bank pays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import plan
from distillkit.running.step_times import StepTimes, measure_step_times, time_lines


@pytest.mark.parametrize(
    ("teacher", "read", "write", "uses"),
    [
        (10.0, 1.0, 0.0, 2),  # 2 uses: 20 ms without a bank, 11 ms with it
        (10.0, 1.0, 9.0, 2),  # 2 uses: 20 ms either way
        (10.0, 1.0, 9.1, 3),  # 2 uses: 20 and 20.1 ms; 3 uses: 30 and 21.1 ms
        (10.0, 9.0, 5.0, 6),  # 6 uses: 60 and 10 + 5 + 45 ms
        (10.0, 10.0, 1.0, None),
        (10.0, 11.0, 1.0, None),
    ],
)
def test_a_bank_pays_once_reading_has_saved_what_writing_took(
    teacher: float, read: float, write: float, uses: int | None
) -> None:
    times = StepTimes(16, teacher, 5.0, read, write)
    assert times.pays_after == uses
    if uses is not None:
        with_bank = [teacher + write + (n - 1) * read for n in (uses - 1, uses)]
        assert with_bank[1] <= uses * teacher
        assert uses == 2 or with_bank[0] > (uses - 1) * teacher


def test_the_lines_of_a_plan(recipe_of: Any, teacher_run: str, tmp_path: Path) -> None:
    tables = {"teachers": [{"model": teacher_run}], "losses": [{"loss": "hard"}], "bank": str(tmp_path / "bank")}
    planned = plan(recipe_of(tables, {"data": {"views": 1}, "training": {"steps": 36}}), installed_plugins())
    # 36 steps of 64 images: 2,304 images, of which each of the 1,152 rows is used twice
    assert time_lines(planned, StepTimes(16, 90.0, 10.0, 2.0, 1.0)) == [
        (
            "time",
            (
                "3.8 minutes for the steps: teacher 90 ms and student 10 ms an image, in batches of 16, without "
                "loading images"
            ),
        ),
        ("", "28 seconds with a full bank; a bank pays from use 2 of each row on, and this run uses each 2 times"),
    ]
    assert time_lines(planned, StepTimes(16, 1.0, 10.0, 2.0, 1.0))[1] == (
        "",
        "reading a row takes 2 ms, longer than the teacher: a bank never pays here",
    )
    once = plan(recipe_of(tables, {"training": {"steps": 18}}), installed_plugins())
    assert time_lines(once, StepTimes(16, 90.0, 10.0, 2.0, 1.0))[1][1].endswith(
        "and this run uses each once; other runs have to use it too"
    )


def test_measuring_loads_no_weights_and_leaves_nothing(recipe_of: Any, teacher_run: str, tmp_path: Path) -> None:
    tables = {"teachers": [{"model": teacher_run}], "losses": [{"loss": "hard"}], "bank": str(tmp_path / "bank")}
    times = measure_step_times(plan(recipe_of(tables), installed_plugins()))
    assert times.images == 16
    assert min(times.teacher_ms, times.student_ms, times.read_ms, times.write_ms) > 0
    assert not (tmp_path / "bank").exists()
    [(heading, text)] = time_lines(plan(recipe_of(), installed_plugins()), StepTimes(16, 0.0, 1.0, 0.0, 0.0))
    assert heading == "time"
    assert re.search(r"teacher 0 ms and student 1 ms an image", text)
