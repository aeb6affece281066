"""Runs with a masked teacher: bit-equal for any number of workers, and after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.plugin.registry import installed_plugins
from distillkit.running.session import build_session
from distillkit.running.start import plan, resume, run
from tests.running.test_exactness import StopAt, assert_equal_weights


@pytest.fixture
def masked(recipe_of: Any, attentive_run: str) -> Any:
    """A recipe with one masked and one complete teacher, for a student of another grid."""

    def make(*changes: dict[str, Any]) -> Any:
        teachers = [
            {"model": attentive_run, "name": "some", "masked": 0.5},
            {"model": attentive_run, "name": "all"},
        ]
        losses = [
            {"loss": "soft", "name": "of-some", "teacher": "some"},
            {"loss": "soft", "name": "of-all", "teacher": "all"},
        ]
        tables = {"teachers": teachers, "losses": losses, "student": {"patch": 2}, "training": {"steps": 10}}
        return recipe_of(tables, *changes)

    return make


def test_a_masked_run_is_bit_equal_for_any_number_of_workers_and_after_a_stop(masked: Any, tmp_path: Path) -> None:
    recipe = masked({"training": {"checkpoint_every": 3, "micro_batch_size": 24}})
    run(recipe, tmp_path / "uninterrupted", installed_plugins())
    changed = masked({"training": {"checkpoint_every": 3, "micro_batch_size": 24}, "data": {"workers": 2}})
    with pytest.raises(KeyboardInterrupt):
        run(changed, tmp_path / "stopped", installed_plugins(), observers=[StopAt(5)])
    resume(tmp_path / "stopped", installed_plugins())
    assert_equal_weights(tmp_path / "uninterrupted/student.safetensors", tmp_path / "stopped/student.safetensors")


def test_the_masked_teacher_sees_what_the_student_chooses(masked: Any) -> None:
    """The targets of both teachers, from the same weights, with the patches of a row that is given."""
    session = build_session(plan(masked(), installed_plugins()))
    targets = session.stepper.teacher_targets
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first = targets(images)
    assert first.keys() == {"of-all"}
    ask = targets.ask_masked(images)
    assert ask is not None
    rows = torch.zeros(3, 2, 17)  # the student has 4 x 4 patches, the teacher 2 x 2
    rows[:, :, 1 + 0] = 0.5  # in the teacher's patch 0
    rows[:, :, 1 + 15] = 0.4  # in the teacher's patch 3
    found = ask(rows)
    assert found.keys() == {"of-some"}
    teacher = cast("FrozenTeacher", targets.teachers["some"].model)
    with teacher.keeping(torch.tensor([[0, 3]]).expand(3, -1)):
        seen = teacher(images, targets.teachers["some"].wanted)
    expected = targets.losses["of-some"].loss.target(seen)
    for name, value in expected.items():
        assert torch.equal(found["of-some"][name], value)
        assert not torch.equal(first["of-all"][name], value)
