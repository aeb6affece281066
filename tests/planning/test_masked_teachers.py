"""Masked teachers in a plan: what is shown, counted and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillkit.errors import BankError, RecipeError, SignalError
from distillkit.planning.one_pass import check_one_pass
from distillkit.planning.render import plan_as_dict, plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import StudentEntry
from distillkit.running.start import plan

NO_VIT = StudentEntry.model_validate({"model": "small-cnn", "image_size": 8, "width": 8})


@pytest.fixture
def planned(recipe_of: Any, attentive_run: str) -> Any:
    """Plan a run with a masked teacher."""

    def make(*changes: dict[str, Any], masked: float = 0.5, model: str = attentive_run) -> Any:
        tables = {
            "teachers": [{"model": model, "name": "t", "masked": masked}],
            "losses": [{"loss": "soft"}],
            "student": {"patch": 2},
        }
        return plan(recipe_of(tables, *changes), installed_plugins())

    return make


def test_the_plan_shows_the_kept_patches_and_counts_less_arithmetic(planned: Any) -> None:
    made, complete = planned(), planned(masked=0.0)
    (shown,) = [text for _, text in plan_lines(made) if "sees " in text]
    assert shown == "reveals logits to soft; sees 2 of 4 patches of the student's images at 8x8"
    assert plan_as_dict(made)["teachers"][0]["masked"] == 0.5
    assert 0.4 < made.cost.teacher_flops / complete.cost.teacher_flops < 0.9
    assert made.cost.student_flops >= complete.cost.student_flops


def test_a_teacher_without_a_plain_sequence_is_refused(planned: Any, teacher_run: str) -> None:
    with pytest.raises(SignalError) as error:
        planned(model=teacher_run)
    assert str(error.value) == (
        "patches of teacher 't' cannot be masked, because it is not one of timm's plain ViTs, whose sequence may have "
        "any length; set masked to 0, or choose another teacher"
    )


def test_a_student_without_attention_is_refused(planned: Any) -> None:
    with pytest.raises(SignalError) as error:
        plan(planned().recipe.model_copy(update={"student": NO_VIT}), installed_plugins())
    assert str(error.value) == (
        "masked = 0.5 of teacher 't' keeps the patches with most of the student's CLS attention, and student "
        "'small-cnn' does not reveal it because it is a CNN; choose another student, or set masked to 0"
    )


def test_a_loss_on_patches_is_refused(planned: Any) -> None:
    with pytest.raises(SignalError) as error:
        planned({"losses": [{"loss": "advit-l1"}]})
    assert str(error.value) == (
        "loss 'advit-l1' reads the CLS attention of teacher 't', which with masked = 0.5 has them for some of its "
        "patches only; set masked to 0, or choose a loss that reads logits or the embedding"
    )


def test_a_bank_is_refused(planned: Any, tmp_path: Path) -> None:
    with pytest.raises(BankError) as error:
        planned({"bank": str(tmp_path / "bank")})
    assert str(error.value) == (
        "a bank cannot store the targets of teacher 't', which has masked = 0.5: they depend on the student, which "
        "chooses its patches; leave out --bank, or set masked to 0"
    )
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("form", ["measured", "channels-last+compiled"])
def test_a_masked_teacher_cannot_be_compiled(planned: Any, form: str) -> None:
    recipe = planned().recipe
    teachers = (recipe.teachers[0].model_copy(update={"form": form}),)
    with pytest.raises(RecipeError) as error:
        plan(recipe.model_copy(update={"teachers": teachers}), installed_plugins())
    assert str(error.value) == (
        f"teacher 't' is masked, and then its form cannot be '{form}', because it cannot be compiled; set form to "
        "auto, plain or channels-last, or set masked to 0"
    )


def test_a_masked_teacher_is_not_shared_by_several_students(planned: Any) -> None:
    with pytest.raises(RecipeError) as error:
        check_one_pass({"runs/a": planned(masked=0.0), "runs/b": planned()})
    assert str(error.value) == (
        "runs/b cannot train in one pass with others: teacher 't' is masked, and each student chooses what it sees; "
        "set masked to 0, or run it alone"
    )
