"""The text of a teacher's form, and its place in a recipe."""

import itertools

import pytest

from distillkit.contracts.teacher_form import ALLOWED, PLAIN, TeacherForm, chosen_form
from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe

TEACHER = {"teachers": [{"model": "regnety16gf"}]}


@pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=4)))
def test_parse_is_the_inverse_of_str(values):
    form = TeacherForm(*values)
    assert TeacherForm.parse(str(form)) == form
    assert (str(form) == "plain") == (form == PLAIN)


def test_the_parts_may_be_in_any_order_and_are_stored_in_one():
    recipe = load_recipe(data="digits", **TEACHER, assignments=["teacher.form=compiled+channels-last"])
    assert recipe.teachers[0].form == "channels-last+compiled"
    assert chosen_form("compiled+channels-last") == TeacherForm(channels_last=True, compiled=True)


@pytest.mark.parametrize("text", ["", "fast", "plain+compiled", "compiled+compiled", "compiled+", "auto+compiled"])
def test_other_texts_are_refused(text):
    with pytest.raises(RecipeError) as raised:
        load_recipe(data="digits", teachers=[{"model": "regnety16gf", "form": text}])
    assert str(raised.value) == f"'teachers.regnety16gf.form' is '{text}'; it should be {ALLOWED}"
