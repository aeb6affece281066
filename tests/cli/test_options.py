"""What the options of `run`, `plan` and `finetune` make of a recipe."""

import inspect

import pytest

from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import LossEntry, TeacherEntry
from distillkit_cli.options import RecipeOptions, TeachingOptions, flattened, given_options

NOTHING = TeachingOptions()


def test_no_option_changes_nothing():
    assert RecipeOptions().resolved(NOTHING) == load_recipe("digits")


def test_every_option_reaches_its_key():
    teaching = TeachingOptions(
        teacher="regnety16gf",
        teacher_weights="teacher.pth",
        teacher_classes="classes.txt",
        loss=["hard", "soft:tau=2,weight=.9"],
        student="vit-s",
        student_weights="pretrained",
    )
    options = RecipeOptions(
        data="pictures",
        validation="0.2",
        unlabeled="more",
        labels=500,
        recipe="deit-ti",
        epochs=7,
        seed=3,
        device="cpu",
        head="class",
        fusion="softmax",
        settings=["optimizer.lr=1e-3", "student.depth=3"],
    )
    recipe = options.resolved(teaching)
    assert recipe.teachers == (TeacherEntry(model="regnety16gf", weights="teacher.pth", classes="classes.txt"),)
    assert recipe.losses == (
        LossEntry(loss="hard"),
        LossEntry.model_validate({"loss": "soft", "tau": 2, "weight": 0.9}),
    )
    assert recipe.student.model_dump(exclude_none=True) == {"model": "vit-s", "weights": "pretrained", "depth": 3}
    data = recipe.data
    assert (data.train, data.validation, data.unlabeled, data.labels) == ("pictures", 0.2, "more", 500)
    assert (recipe.training.epochs, recipe.training.device, recipe.seed) == (7, "cpu", 3)
    assert (recipe.evaluation.head, recipe.evaluation.fusion) == ("class", "softmax")
    assert recipe.optimizer.lr == 1e-3
    assert recipe.augment == load_recipe("deit-ti").augment


def test_seed_zero_is_a_seed():
    assert RecipeOptions(seed=0, settings=["data.seed=5"]).resolved(NOTHING).seed == 0


def test_smoke_shortens():
    assert RecipeOptions(recipe="deit-s", smoke=True).resolved(NOTHING).training.steps == 2


def test_validation_is_a_share_or_a_name():
    assert RecipeOptions(validation="validation-pictures").resolved(NOTHING).data.validation == "validation-pictures"
    assert RecipeOptions(validation=".25").resolved(NOTHING).data.validation == 0.25


def test_weights_go_to_the_teacher_that_the_recipe_names():
    recipe = RecipeOptions(recipe="deit-ti").resolved(TeachingOptions(teacher_weights="teacher.pth"))
    assert recipe.teachers == (TeacherEntry(model="regnety16gf", weights="teacher.pth"),)


def test_weights_without_a_teacher_are_refused():
    with pytest.raises(RecipeError) as caught:
        RecipeOptions().resolved(TeachingOptions(teacher_weights="teacher.pth"))
    assert str(caught.value) == (
        "'teacher.weights' needs a teacher; name one with --teacher, or in the recipe's `teachers`"
    )


def test_a_loss_with_a_bad_option_is_refused():
    with pytest.raises(RecipeError) as caught:
        RecipeOptions().resolved(TeachingOptions(loss=["hard", "hard"]))
    assert str(caught.value) == "losses need unique names; set `name` for one of those named 'hard'"


def test_given_options_are_named_as_they_are_typed():
    options = RecipeOptions(seed=0, settings=["seed=1"], labels=5, smoke=True)
    assert given_options(TeachingOptions(teacher_weights="a", loss=[]), options) == [
        "--teacher-weights",
        "--labels",
        "--seed",
        "--set",
        "--smoke",
    ]


def test_flattening_gives_every_field_its_own_parameter():
    seen = []

    def verb(*, first: str, teaching: TeachingOptions, last: int = 1) -> None:
        seen.append((first, teaching, last))

    flat = flattened(verb)
    names = list(inspect.signature(flat).parameters)
    assert names == ["first", *TeachingOptions.__dataclass_fields__, "last"]
    nothing = dict.fromkeys(TeachingOptions.__dataclass_fields__)
    flat(**nothing | {"first": "a", "teacher": "vit-b", "last": 2})
    assert seen == [("a", TeachingOptions(teacher="vit-b"), 2)]
