"""Keyword arguments of `load_recipe`: options of the command line, tables, and dotted keys."""

from pathlib import Path

import pytest

from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe
from distillkit.recipe.image_tables import Data
from distillkit.recipe.schema import LossEntry, Recipe, TeacherEntry, Training


def loss(**entry):
    return LossEntry.model_validate(entry)


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"data": "pictures"}, "data.train", "pictures"),
        ({"data": Path("pictures")}, "data.train", "pictures"),
        ({"data": {"train": "pictures", "labels": 5}}, "data.labels", 5),
        ({"validation": 0.2}, "data.validation", 0.2),
        ({"unlabeled": Path("more")}, "data.unlabeled", "more"),
        ({"labels": 100}, "data.labels", 100),
        ({"labels": {"smoothing": 0.1}}, "labels.smoothing", 0.1),
        ({"strict_data": True}, "data.broken", 0.0),
        ({"student": "vit-s"}, "student.model", "vit-s"),
        ({"student": {"image_size": 96}}, "student.image_size", 96),
        ({"student_weights": "pretrained"}, "student.weights", "pretrained"),
        ({"epochs": 7}, "training.epochs", 7),
        ({"training": {"steps": 10}}, "training.steps", 10),
        ({"training.steps": 10}, "training.steps", 10),
        ({"training": {"clip": 1.0}, "epochs": 7}, "training.epochs", 7),
        ({"device": "cpu"}, "training.device", "cpu"),
        ({"seed": 3}, "seed", 3),
        ({"head": "class"}, "evaluation.head", "class"),
        ({"fusion": "softmax"}, "evaluation.fusion", "softmax"),
        ({"optimizer": {"betas": (0.8, 0.9)}}, "optimizer.betas", (0.8, 0.9)),
    ],
)
def test_an_option_sets_its_key(options, key, value):
    found = load_recipe("digits", **options)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("given", "losses"),
    [
        ("hard", [loss(loss="hard")]),
        ("soft:tau=2,weight=.9", [loss(loss="soft", tau=2, weight=0.9)]),
        (["hard", {"loss": "soft", "tau": 2}], [loss(loss="hard"), loss(loss="soft", tau=2)]),
        ({"loss": "soft", "tau": 2}, [loss(loss="soft", tau=2)]),
        ([], []),
    ],
)
def test_losses_are_names_tables_or_a_list_of_both(given, losses):
    assert load_recipe(loss=given).losses == tuple(losses)


def test_a_teacher_is_a_name_or_a_table():
    assert load_recipe(teacher="vit-b", teacher_weights=Path("b.pth")).teachers == (
        TeacherEntry(model="vit-b", weights="b.pth"),
    )
    assert load_recipe(teacher={"model": "vit-b", "size": 96}).teachers == (TeacherEntry(model="vit-b", size=96),)


def test_a_table_without_a_name_changes_the_only_entry():
    recipe = load_recipe("deit-ti", teacher={"size": 96}, loss={"weight": 0.3})
    named = load_recipe("deit-ti")
    assert recipe.teachers == (named.teachers[0].model_copy(update={"size": 96}),)
    assert recipe.losses[0].weight == 0.3


def test_none_means_not_given_for_an_option_and_resets_a_table_key():
    recipe = load_recipe("cifar10-few-labels")
    assert load_recipe("cifar10-few-labels", labels=None, data=None, epochs=None, training=None) == recipe
    assert load_recipe("cifar10-few-labels", **{"data.labels": None}).data == Data()
    assert load_recipe("cifar10-few-labels", data={"labels": None}).data == Data()
    # Also where the default is not None, which itself would be an error.
    assert load_recipe("deit-ti").training.batch_size == 1024
    assert load_recipe("deit-ti", **{"training.batch_size": None}).training.batch_size == Training().batch_size
    assert load_recipe("deit-ti", training={"batch_size": None}).training.batch_size == Training().batch_size


def test_a_recipe_is_changed_like_a_named_one():
    recipe = load_recipe("deit-s", data="imagenet")
    assert load_recipe(recipe) == recipe
    changed = load_recipe(recipe, training={"steps": 5}, student="vit-s")
    assert changed == load_recipe("deit-s", data="imagenet", training={"steps": 5}, student="vit-s")
    assert recipe == load_recipe("deit-s", data="imagenet")


def test_a_recipe_object_has_no_implicit_base():
    recipe = Recipe(training=Training(steps=5))
    assert load_recipe(recipe) == recipe


def test_a_path_is_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 4")
    assert load_recipe(tmp_path / "mine.toml").seed == 4


def test_the_arguments_of_the_caller_are_not_changed():
    training, losses = {"steps": 5}, [{"loss": "soft"}]
    load_recipe(loss=losses, training=training, **{"training.clip": 1.0, "loss.tau": 3})
    assert (training, losses) == ({"steps": 5}, [{"loss": "soft"}])


def test_errors_are_those_of_the_command_line():
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", steps=3, optimizer={"lr": "high"}, teacher_weights="b.pth", head="both")
    assert str(caught.value) == (
        "4 problems\n"
        "  'teacher.weights' needs a teacher; name one with --teacher, or in the recipe's `teachers`\n"
        "  'optimizer.lr' is 'high'; it should be a number\n"
        "  'evaluation.head' is 'both'; it should be 'fused', 'class' or 'distill'\n"
        "  unknown key 'steps'; did you mean 'training.steps'?"
    )


def test_a_loss_without_its_name_is_one_problem():
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", loss=[{"los": "soft"}])
    assert str(caught.value) == "'losses.0.loss' is missing"


def test_one_assignment_may_be_given_as_a_string():
    assert load_recipe("digits", assignments="training.steps=3").training.steps == 3


def test_a_recipe_has_no_smoke_tables():
    with pytest.raises(RecipeError) as caught:
        load_recipe(Recipe(), smoke=True)
    assert str(caught.value) == (
        "recipe 'Recipe' has no [smoke] table; add one, or shorten the run with --set training.steps=2"
    )
