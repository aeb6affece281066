"""Which teachers are evaluated before the first step, on how many images, and what the plan says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillkit.planning.render import plan_as_dict, plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import plan

HARD = {"losses": [{"loss": "hard"}]}
LONG = {"training": {"steps": None, "epochs": 20}}


def planned(recipe_of: Any, teacher: str, *changes: dict[str, Any], size: str | int = "auto") -> Any:
    entry = {"teachers": [{"model": teacher, "name": "cnn", "size": size}]}
    return plan(recipe_of(HARD, entry, *changes), installed_plugins())


@pytest.mark.parametrize(
    ("steps", "image_size", "images"),
    [
        (1000, 8, 130),  # all of them: 4 % of 64,000 images are more
        (24, 8, 61),  # 4 % of 1,536
        (24, 16, 0),  # 16 px cost 4 times as much as 8 px: 61 / 5 images are too few
        (50, 16, 25),  # 4 % of 3,200, divided by 1 + 4
        (12, 8, 30),
        (7, 8, 0),
    ],
)
def test_images_are_bounded_by_the_cost_of_the_run(
    recipe_of: Any, teacher_run: str, steps: int, image_size: int, images: int
) -> None:
    changes = {"training": {"steps": steps}, "student": {"image_size": image_size}}
    made = planned(recipe_of, teacher_run, changes)
    assert made.teachers["cnn"].evaluated == images
    assert made.teachers["cnn"].input_size == (8, 8)


def test_the_plan_says_at_which_sizes_and_why(recipe_of: Any, teacher_run: str) -> None:
    made = planned(recipe_of, teacher_run, {"training": {"steps": 100}, "student": {"image_size": 16}})
    lines = [line for _, line in plan_lines(made)]
    assert any(line.endswith("sees the student's images at 8x8, its own size") for line in lines)
    assert "is evaluated before the first step on 51 validation images at 8x8 and, to compare, at 16x16" in lines
    assert plan_as_dict(made)["teachers"][0]["evaluated"] == {"images": 51, "sizes": [[8, 8], [16, 16]]}


def test_the_plan_of_a_teacher_at_the_students_size(recipe_of: Any, teacher_run: str) -> None:
    changes = {"training": {"steps": 100}, "student": {"image_size": 16}}
    lines = [line for _, line in plan_lines(planned(recipe_of, teacher_run, changes, size="student"))]
    assert any(line.endswith("sees the student's images at 16x16, the student's size") for line in lines)
    assert "is evaluated before the first step on 130 validation images at 16x16 and, to compare, at 8x8" in lines


def test_without_validation_images_or_logits_nothing_is_evaluated(
    recipe_of: Any, teacher_run: str, attentive_run: str, tmp_path: Path
) -> None:
    steps = {"training": {"steps": 1000}}
    without = planned(recipe_of, teacher_run, steps, {"data": {"validation": 0.0}})
    features = plan(
        recipe_of(steps, {"losses": [{"loss": "advit-l1"}], "teachers": [{"model": attentive_run, "name": "cnn"}]}),
        installed_plugins(),
    )
    for made in (without, features):
        assert made.teachers["cnn"].evaluated == 0
        assert plan_as_dict(made)["teachers"][0]["evaluated"] is None
        assert not [line for _, line in plan_lines(made) if "evaluated" in line]
