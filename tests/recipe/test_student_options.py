"""Options of a recipe's student when another student replaces it."""

import pytest

from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import StudentEntry

DIGITS = {"image_size": 8, "patch": 4, "width": 64, "depth": 4, "heads": 4}
ALL_OF_DIGITS = ", ".join(f"student.{key} = {value}" for key, value in DIGITS.items())


@pytest.mark.parametrize("student", ["vit-ti", "deit-s"])
def test_a_student_of_the_same_plugin_keeps_them(student):
    recipe = load_recipe("digits", student=student, assignments=["student.depth=2"])
    assert recipe.student == StudentEntry(model=student, **DIGITS | {"depth": 2})
    assert recipe.about.notes == ()


def test_a_student_of_another_plugin_keeps_those_that_it_has_too():
    recipe = load_recipe(student="small-cnn", assignments=["student.width=16"])
    assert recipe.student == StudentEntry(model="small-cnn", image_size=8, width=16)
    assert recipe.about.notes == (
        (
            "student.image_size = 8 of student 'deit-ti' is kept for 'small-cnn', which another plugin builds; change "
            "what does not suit it"
        ),
        (
            "student.patch = 4, student.depth = 4, student.heads = 4 of student 'deit-ti' are not kept, because "
            "'small-cnn' does not have them"
        ),
    )


def test_a_single_option_that_another_plugin_does_not_have():
    recipe = load_recipe("imagenette", student="timm:resnet18", assignments=["student.image_size=96"])
    assert recipe.student == StudentEntry(model="timm:resnet18", image_size=96)
    assert recipe.about.notes == ()


def test_the_size_of_the_images_is_kept_for_a_network_of_timm():
    recipe = load_recipe("cifar10-few-labels", student="timm:resnet18", data="pictures")
    assert recipe.student == StudentEntry(model="timm:resnet18", image_size=32)
    assert recipe.about.notes == (
        (
            "student.image_size = 32 of student 'deit-ti' is kept for 'timm:resnet18', which another plugin builds; "
            "change what does not suit it"
        ),
        (
            "student.patch = 4, student.width = 96, student.depth = 4, student.heads = 3 of student 'deit-ti' are not "
            "kept, because 'timm:resnet18' does not have them"
        ),
    )


def test_weights_of_the_new_student_rule_them_out():
    recipe = load_recipe("digits", student="deit-s", student_weights="pretrained")
    assert recipe.student == StudentEntry(model="deit-s", weights="pretrained")
    assert recipe.about.notes == (
        (
            f"{ALL_OF_DIGITS} of student 'deit-ti' are not kept, because 'deit-s' starts from weights of its own; set "
            "what should apply to it"
        ),
    )


def test_a_file_that_names_another_student_than_its_base(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "digits"\n[student]\nmodel = "vit-ti"\npatch = 2\n')
    assert load_recipe(str(path)).student == StudentEntry(model="vit-ti", **DIGITS | {"patch": 2})


def test_an_unknown_student_is_left_to_the_look_up_of_plugins():
    assert load_recipe("digits", student="vit-xx").student == StudentEntry(model="vit-xx")
