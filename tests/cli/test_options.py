"""Options of `run`, `plan` and `finetune`, and the recipe keys they set."""

import inspect

import pytest

from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import LossEntry, TeacherEntry
from distillkit_cli.options import ModelOptions, RecipeOptions, flattened, given_options

NO_MODELS = ModelOptions()


def test_without_options_the_recipe_is_unchanged():
    assert RecipeOptions().resolved(NO_MODELS) == load_recipe("digits")


def test_every_option_sets_its_key():
    models = ModelOptions(
        teacher="regnety16gf",
        teacher_weights="teacher.pth",
        teacher_classes="classes.txt",
        loss=["hard", "soft:tau=2,weight=.9"],
        student="vit-s",
        student_weights="pretrained",
    )
    options = RecipeOptions(
        data="photos",
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
    recipe = options.resolved(models)
    assert recipe.teachers == (TeacherEntry(model="regnety16gf", weights="teacher.pth", classes="classes.txt"),)
    assert recipe.losses == (
        LossEntry(loss="hard"),
        LossEntry.model_validate({"loss": "soft", "tau": 2, "weight": 0.9, "reduction": "numel"}),  # deit-ti's
    )
    assert recipe.student.model_dump(exclude_none=True) == {"model": "vit-s", "weights": "pretrained", "depth": 3}
    data = recipe.data
    assert (data.train, data.validation, data.unlabeled, data.labels) == ("photos", 0.2, "more", 500)
    assert (recipe.training.epochs, recipe.training.device, recipe.seed) == (7, "cpu", 3)
    assert (recipe.evaluation.head, recipe.evaluation.fusion) == ("class", "softmax")
    assert recipe.optimizer.lr == 1e-3
    assert recipe.augment == load_recipe("deit-ti").augment


def test_seed_0_is_set():
    assert RecipeOptions(seed=0, settings=["data.seed=5"]).resolved(NO_MODELS).seed == 0


def test_smoke_trains_two_steps():
    assert RecipeOptions(recipe="deit-s", smoke=True).resolved(NO_MODELS).training.steps == 2


def test_validation_is_a_share_or_a_folder():
    assert RecipeOptions(validation="validation-images").resolved(NO_MODELS).data.validation == "validation-images"
    assert RecipeOptions(validation=".25").resolved(NO_MODELS).data.validation == 0.25


def test_teacher_weights_apply_to_the_recipes_teacher():
    recipe = RecipeOptions(recipe="deit-ti").resolved(ModelOptions(teacher_weights="teacher.pth"))
    assert recipe.teachers == (TeacherEntry(model="regnety16gf", weights="teacher.pth"),)


def test_teacher_weights_without_a_teacher_are_an_error():
    with pytest.raises(RecipeError) as caught:
        RecipeOptions().resolved(ModelOptions(teacher_weights="teacher.pth"))
    assert str(caught.value) == (
        "'teacher.weights' needs a teacher; name one with --teacher, or in the recipe's `teachers`"
    )


def test_duplicate_losses_are_an_error():
    with pytest.raises(RecipeError) as caught:
        RecipeOptions().resolved(ModelOptions(loss=["hard", "hard"]))
    assert str(caught.value) == "losses need unique names; set `name` for one of those named 'hard'"


def test_given_options_are_spelled_as_on_the_command_line():
    options = RecipeOptions(seed=0, settings=["seed=1"], labels=5, smoke=True)
    assert given_options(ModelOptions(teacher_weights="a", loss=[]), options) == [
        "--teacher-weights",
        "--labels",
        "--seed",
        "--set",
        "--smoke",
    ]


def test_flattened_makes_every_field_a_parameter():
    seen = []

    def verb(*, first: str, models: ModelOptions, last: int = 1) -> None:
        seen.append((first, models, last))

    flat = flattened(verb)
    names = list(inspect.signature(flat).parameters)
    assert names == ["first", *ModelOptions.__dataclass_fields__, "last"]
    unset = dict.fromkeys(ModelOptions.__dataclass_fields__)
    flat(**unset | {"first": "a", "teacher": "vit-b", "last": 2})
    assert seen == [("a", ModelOptions(teacher="vit-b"), 2)]
