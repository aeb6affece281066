"""No key of a recipe is ignored silently, and the plan shows the options of the student."""

import pytest

import distillkit
from distillkit.errors import RecipeError
from distillkit.planning.render import plan_as_dict, plan_lines

TINY = {"student.width": 16, "student.depth": 1, "student.heads": 2}


def sentence(key, shown="1"):
    return (
        f"loss 'ce' has no key {key}: it is the cross-entropy on the labels, whose weight and smoothing are "
        f"labels.weight and labels.smoothing, such as --set labels.weight={shown}"
    )


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("ce:anything=3", sentence("'anything'")),
        ("ce:weight=0.5", sentence("'weight'", "0.5")),
        ("ce:name=labels,smoothing=0.1", sentence("'name', 'smoothing'")),
    ],
)
def test_ce_has_no_keys(loss, expected):
    with pytest.raises(RecipeError) as caught:
        distillkit.plan("digits", loss=loss)
    assert str(caught.value) == expected


def test_the_weight_that_the_message_names_works():
    assert distillkit.plan("digits", loss="ce", **TINY, **{"labels.weight": 0.5}).formula == "0.5 * labels"


def test_ce_next_to_several_teachers_needs_no_teacher():
    recipe = distillkit.load_recipe(
        teacher=["vit-b", {"model": "vit-s", "name": "small"}], loss=["ce", {"loss": "hard", "teacher": "small"}]
    )
    assert [loss.teacher for loss in recipe.losses] == [None, "small"]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"optimizer.momentum": 0.8}, "optimizer 'adamw' has no momentum, so optimizer.momentum = 0.8 has no effect"),
        ({"head": "distill"}, "student 'vit-ti' has one head, so evaluation.head = \"distill\" has no effect"),
        ({"fusion": "softmax"}, "student 'vit-ti' has one head, so evaluation.fusion = \"softmax\" has no effect"),
    ],
)
def test_settings_without_effect_are_noted(settings, note):
    assert note in distillkit.plan("digits", loss="ce", student="vit-ti", **TINY, **settings).notes


def test_settings_with_an_effect_are_not_noted():
    plan = distillkit.plan("digits", loss="ce", head="distill", **TINY, optimizer={"name": "sgd", "momentum": 0.8})
    assert not [note for note in plan.notes if "has no effect" in note]


def test_the_plan_shows_the_options_of_the_student():
    plan = distillkit.plan("digits", loss="ce", **TINY)
    shown = "options image_size = [8, 8], patch = 4, width = 16, depth = 1, heads = 2"
    assert ("", shown) in plan_lines(plan)
    options = plan_as_dict(plan)["student"]["options"]
    assert options == {"image_size": [8, 8], "patch": 4, "width": 16, "depth": 1, "heads": 2}
    without = distillkit.plan("digits", loss="ce", student={"model": "timm:resnet10t", "image_size": None})
    assert not [text for _, text in plan_lines(without) if text.startswith("options")]
