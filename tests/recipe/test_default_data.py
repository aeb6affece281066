"""Default data and recipe: those of the teacher, where none are named."""

import pytest

from distillkit.errors import RecipeError
from distillkit.recipe.files import dump, load_recipe
from distillkit.recipe.schema import Recipe

KNOWS = "the default for teacher '{}', which knows its classes"


def chosen(**options):
    recipe = load_recipe(**options)
    return recipe.data.train, recipe.about.summary[:10], recipe.about.data_reason


def summary(name):
    return load_recipe(name).about.summary[:10]


@pytest.mark.parametrize("teacher", ["regnety16gf", "vit-b", "timm:resnet50"])
def test_a_teacher_of_imagenets_classes_has_imagenette_and_its_recipe(teacher):
    assert chosen(teacher=teacher, loss="hard") == ("imagenette", summary("imagenette"), KNOWS.format(teacher))


@pytest.mark.parametrize("teacher", [None, "cifar-resnet20", "dino-vits16", "unknown"])
def test_other_teachers_and_no_teacher_have_digits(teacher):
    assert chosen(teacher=teacher, loss="hard") == ("digits", summary("digits"), "")


def test_data_that_is_named_is_not_replaced():
    assert chosen(teacher="regnety16gf", data="flowers") == ("flowers", summary("default"), "")
    assert chosen(teacher="regnety16gf", unlabeled="photos") == (None, summary("default"), "")
    assert chosen(teacher="regnety16gf", data="imagenette") == ("imagenette", summary("imagenette"), "")
    assert chosen(teacher="regnety16gf", recipe="digits") == ("digits", summary("digits"), "")


def test_a_recipe_keeps_its_own_settings_and_gets_the_data_of_its_teacher():
    assert chosen(recipe="deit-ti") == ("imagenette", summary("deit-ti"), KNOWS.format("regnety16gf"))
    assert load_recipe("deit-ti").training.epochs == 300


@pytest.mark.parametrize("options", [{"teacher_classes": "names.txt"}, {"assignments": ["teacher.classes=names.txt"]}])
def test_a_teacher_with_class_names_of_its_own_has_no_default_data(options):
    assert chosen(teacher="timm:resnet50", loss="hard", **options)[0] == "digits"
    table = {"model": "timm:resnet50", "classes": "names.txt"}
    assert chosen(teacher=table, loss="hard")[0] == "digits"


@pytest.fixture
def run(tmp_path):
    """A run on flowers, with its own validation folder and seed."""
    data = {"train": "flowers", "validation": "held", "seed": 3, "labels": 10, "root": "r", "workers": 1}
    (tmp_path / "recipe.toml").write_text(dump(Recipe.model_validate({"data": data})), encoding="utf-8")
    (tmp_path / "best").mkdir()
    return tmp_path


@pytest.mark.parametrize("student", ["", "best", "checkpoints/step-00000002"])
def test_the_data_of_a_run_is_the_default_of_its_student_as_teacher(run, student):
    recipe = load_recipe(teacher=f"run:{run / student}", loss="hard")
    data = recipe.data
    assert (data.train, data.validation, data.seed, data.root) == ("flowers", "held", 3, "r")
    assert (data.labels, data.workers) == (None, None)
    assert recipe.about.summary == load_recipe("default").about.summary
    assert recipe.about.data_reason == f"the default, because teacher 'run:{run / student}' was trained on it"


def test_options_override_the_data_of_the_run(run):
    recipe = load_recipe(teacher=f"run:{run}", loss="hard", validation=0.2, **{"data.seed": 0})
    assert (recipe.data.train, recipe.data.validation, recipe.data.seed) == ("flowers", 0.2, 0)


def test_a_run_on_digits_keeps_the_recipe_for_digits(tmp_path):
    (tmp_path / "recipe.toml").write_text(dump(Recipe()), encoding="utf-8")  # an earlier version: no data is digits
    recipe = load_recipe(teacher=f"run:{tmp_path}", loss="hard")
    assert (recipe.data.train, recipe.student) == ("digits", load_recipe("digits").student)


def test_a_run_without_labels_gives_its_unlabelled_images(tmp_path):
    recipe = Recipe.model_validate({"data": {"unlabeled": "photos"}})
    (tmp_path / "recipe.toml").write_text(dump(recipe), encoding="utf-8")
    recipe = load_recipe(teacher=f"run:{tmp_path}", loss="hard")
    assert (recipe.data.train, recipe.data.unlabeled) == (None, "photos")


def test_a_run_that_cannot_be_read_says_what_it_was_read_for(tmp_path):
    (tmp_path / "recipe.toml").write_text("[data", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(teacher=f"run:{tmp_path}", loss="hard")
    assert str(error.value).startswith(f"recipe '{tmp_path}/recipe.toml' is not valid TOML: ")
    assert str(error.value).endswith(f"; without --data, the data is that of teacher 'run:{tmp_path}'")
    assert load_recipe(teacher=f"run:{tmp_path}", loss="hard", data="digits").data.train == "digits"


def test_recipes_of_runs_keep_their_data(tmp_path):
    """A run of an earlier version without data.train was a run on digits, whatever its teacher."""
    recipe = Recipe.model_validate({"teachers": [{"model": "regnety16gf"}], "losses": [{"loss": "hard"}]})
    (tmp_path / "recipe.toml").write_text(dump(recipe), encoding="utf-8")
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    for options in ({"recipe": recipe}, {"recipe": tmp_path / "recipe.toml"}, {"from_run": tmp_path}):
        assert load_recipe(**options).data.train is None
