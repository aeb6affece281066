"""What a run started with `--from` inherits from the finished run."""

import pytest

from distillkit.errors import RecipeError, RunDirectoryError
from distillkit.recipe.files import dump, load_recipe
from distillkit.recipe.schema import LossEntry, Recipe, StudentEntry, TeacherEntry, Training
from distillkit.recipe.stored_paths import write_started_in

TINY = {"image_size": 8, "patch": 4, "width": 16}


@pytest.fixture
def run_of(tmp_path):
    """`run_of({"seed": 3})`: the directory of a finished run with that recipe."""

    def make(tables, finished=True):
        directory = tmp_path / "run"
        directory.mkdir()
        (directory / "recipe.toml").write_text(dump(Recipe.model_validate(tables)), encoding="utf-8")
        if finished:
            (directory / "result.json").write_text("{}")
        return directory

    return make


@pytest.fixture
def taught(run_of):
    """A run with a setting of every kind."""
    return run_of(
        {
            "about": {"summary": "A run.", "cost": "an hour"},
            "seed": 7,
            "data": {"train": "flowers", "validation": "flowers/val", "test": "more/test", "labels": 100, "seed": 5},
            "teachers": [{"model": "regnety16gf", "size": 224}],
            "student": {"model": "vit-ti", "weights": "pretrained", **TINY},
            "losses": [{"loss": "hard"}],
            "training": {"epochs": 9, "clip": 1.0},
        }
    )


def refusal(error, *arguments, **options):
    with pytest.raises(error) as caught:
        load_recipe(*arguments, **options)
    return str(caught.value)


def test_everything_but_about_is_inherited_and_the_student_starts_from_the_weights_of_the_run(taught):
    before, after = load_recipe(str(taught / "recipe.toml")), load_recipe(from_run=taught)
    assert after == Recipe.model_validate(
        before.model_dump() | {"about": {}, "student": before.student.model_dump() | {"weights": str(taught)}}
    )


def test_the_command_line_overrides_a_recipe_and_a_recipe_overrides_the_run(taught, tmp_path):
    (tmp_path / "mine.toml").write_text("[training]\nepochs = 3\nbatch_size = 16\n[student]\nimage_size = 32\n")
    recipe = load_recipe(
        str(tmp_path / "mine.toml"),
        from_run=taught,
        **{"losses": [{"loss": "soft"}], "teacher.size": "native"},
        assignments=["training.steps=4", "data.labels="],
    )
    assert recipe.training == Training(steps=4, batch_size=16, clip=1.0)
    assert recipe.student == StudentEntry(model="vit-ti", weights=str(taught), **TINY | {"image_size": 32})
    assert recipe.losses == (LossEntry(loss="soft"),)
    assert recipe.teachers == (TeacherEntry(model="regnety16gf", size="native"),)
    assert (recipe.data.labels, recipe.data.validation) == (None, "flowers/val")
    assert recipe.about.notes == ()


def test_a_transfer_recipe_changes_the_training_but_not_the_student(taught, tmp_path):
    (tmp_path / "transfer.toml").write_text("[optimizer]\nname = 'sgd'\n[smoke]\ntraining.steps = 1\n")
    recipe = load_recipe(str(tmp_path / "transfer.toml"), from_run=taught, **{"data.train": "cifar10"}, smoke=True)
    assert (recipe.student.model, recipe.student.weights) == ("vit-ti", str(taught))
    assert (recipe.optimizer.name, recipe.training.steps, recipe.data.train) == ("sgd", 1, "cifar10")


class TestOtherImages:
    def test_do_not_inherit_the_keys_about_the_images_of_the_run(self, taught):
        recipe = load_recipe(from_run=taught, **{"data.train": "cars"})
        assert recipe.data.model_dump(exclude_defaults=True) == {"train": "cars", "seed": 5}
        assert recipe.about.notes == (
            (
                f'trains on other images than {taught}, so data.validation = "flowers/val", data.test = "more/test" '
                "and data.labels = 100 are not inherited"
            ),
        )

    def test_keep_the_keys_that_are_given_and_a_validation_share(self, run_of):
        former = run_of({"data": {"train": "flowers", "validation": 0.2, "labels": 100, "test": "flowers/test"}})
        recipe = load_recipe(from_run=former, **{"data.train": "cars", "data.labels": 100})
        assert recipe.data.model_dump(exclude_defaults=True) == {"train": "cars", "validation": 0.2, "labels": 100}
        assert recipe.about.notes == (
            f'trains on other images than {former}, so data.test = "flowers/test" is not inherited',
        )

    def test_replace_the_unlabelled_images_of_the_run(self, run_of):
        former = run_of({"data": {"unlabeled": "pictures"}})
        recipe = load_recipe(from_run=former, **{"data.train": "cars"})
        assert (recipe.data.train, recipe.data.unlabeled) == ("cars", None)
        assert recipe.about.notes == (
            f'trains on other images than {former}, so data.unlabeled = "pictures" is not inherited',
        )

    def test_do_not_inherit_the_share_of_labels_of_a_batch(self, run_of):
        former = run_of({"data": {"train": "flowers", "labels": 100, "labeled_fraction": 0.5}})
        recipe = load_recipe(from_run=former, **{"data.train": "cars"})
        assert recipe.data.model_dump(exclude_defaults=True) == {"train": "cars"}
        assert recipe.about.notes == (
            (
                f"trains on other images than {former}, so data.labels = 100 and data.labeled_fraction = 0.5 are not "
                "inherited"
            ),
        )

    def test_are_not_additional_unlabelled_images(self, taught):
        data = load_recipe(from_run=taught, **{"data.unlabeled": "pictures"}).data
        assert (data.labels, data.unlabeled) == (100, "pictures")

    def test_are_not_the_default_digits_given_by_name(self, run_of):
        former = run_of({"data": {"labels": 100}})
        assert load_recipe(from_run=former, **{"data.train": "digits"}).data.labels == 100


class TestOtherStudent:
    def test_of_the_same_plugin_keeps_the_options(self, taught):
        recipe = load_recipe(from_run=taught, **{"student.model": "deit-ti"}, assignments=["student.patch=8"])
        assert recipe.student == StudentEntry(model="deit-ti", weights=str(taught), **TINY | {"patch": 8})

    def test_of_another_plugin_keeps_the_options_that_it_has_too(self, taught):
        recipe = load_recipe(from_run=taught, **{"student.model": "timm:deit_tiny_patch16_224"})
        assert recipe.student == StudentEntry(
            model="timm:deit_tiny_patch16_224", weights=str(taught), image_size=TINY["image_size"]
        )
        assert recipe.about.notes == (
            (
                "student.image_size = 8 of student 'vit-ti' is kept for 'timm:deit_tiny_patch16_224', which another "
                "plugin builds; change what does not suit it"
            ),
            (
                "student.patch = 4, student.width = 16 of student 'vit-ti' are not kept, because "
                "'timm:deit_tiny_patch16_224' does not have them"
            ),
        )

    def test_in_place_of_one_that_is_not_installed(self, run_of):
        former = run_of({"student": {"model": "gone", "patch": 4, "teeth": 3}})
        recipe = load_recipe(from_run=former, **{"student.model": "vit-ti"})
        assert recipe.student == StudentEntry(model="vit-ti", weights=str(former), patch=4)
        assert recipe.about.notes == (
            (
                "student.patch = 4 of student 'gone' is kept for 'vit-ti', which another plugin builds; change what "
                "does not suit it"
            ),
            "student.teeth = 3 of student 'gone' is not kept, because 'vit-ti' does not have it",
        )


class TestTeachers:
    """Teachers of the run that no loss of the new one reads."""

    @pytest.mark.parametrize("loss", ["ce", ["ce"]])
    def test_are_not_inherited(self, taught, loss):
        recipe = load_recipe(from_run=taught, loss=loss)
        assert recipe.teachers == ()
        assert recipe.about.notes == ("teacher 'regnety16gf' is not inherited, because no loss reads it",)

    def test_whose_file_is_gone_are_not_asked_for(self, run_of, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        teacher = {"model": "timm:resnet18", "weights": "gone.pth", "classes": "gone.txt"}
        teachers = [{**teacher, "name": "a"}, {**teacher, "name": "b"}]
        losses = [{"loss": "hard", "teacher": "a"}, {"loss": "soft", "teacher": "b"}]
        run = run_of({"teachers": teachers, "losses": losses})
        write_started_in(run)
        assert refusal(RecipeError, from_run=run) == (
            f"teachers.a.weights: run {run} uses 'gone.pth', which is not found here or in '{tmp_path}', where it "
            "started; put it back, or give --set teachers.a.weights=PATH"
        )
        recipe = load_recipe(from_run=run, loss="ce")
        assert recipe.about.notes == ("teachers 'a', 'b' are not inherited, because no loss reads them",)

    def test_of_which_a_loss_reads_one(self, run_of):
        teachers = [{"model": "timm:resnet18", "name": "a"}, {"model": "timm:resnet34", "name": "b"}]
        losses = [{"loss": "hard", "teacher": "a"}, {"loss": "soft", "teacher": "b"}]
        run = run_of({"teachers": teachers, "losses": losses})
        recipe = load_recipe(from_run=run, loss={"loss": "soft", "teacher": "b"})
        assert recipe.teachers == (TeacherEntry(model="timm:resnet34", name="b"),)
        assert recipe.about.notes == ("teacher 'a' is not inherited, because no loss reads it",)

    @pytest.mark.parametrize("loss", [{}, {"loss": "soft"}, {"loss": "sotf"}])
    def test_that_a_loss_may_read_are_inherited(self, taught, loss):
        recipe = load_recipe(from_run=taught, **loss)
        assert recipe.teachers == (TeacherEntry(model="regnety16gf", size=224),)
        assert recipe.about.notes == ()

    def test_of_the_command_line_are_kept(self, taught):
        assert load_recipe(from_run=taught, teacher="vit-b", loss="ce").teachers == (TeacherEntry(model="vit-b"),)


class TestNamedRecipe:
    """What a named recipe states for any student outranks the options of the run."""

    def test_replaces_an_option_of_the_run(self, run_of):
        run = run_of({"student": {"model": "vit-ti", **TINY, "drop_path": 0.1}})
        recipe = load_recipe("transfer-cifar10", from_run=run)
        assert recipe.student.options == TINY | {"drop_path": 0.0}
        recipe = load_recipe("deit-384", from_run=run, assignments=["student.drop_path=0.2"])
        assert recipe.student.options == TINY | {"image_size": 384, "drop_path": 0.2}

    def test_does_not_stop_a_student_without_the_option(self, run_of):
        run = run_of({"student": {"model": "small-cnn", "width": 8}})
        recipe = load_recipe("transfer-cars", from_run=run)
        assert recipe.student.options == {"width": 8}
        assert recipe.about.notes == (
            "student 'small-cnn' does not have the recipe's option student.drop_path = 0.0, which has no effect",
        )

    def test_that_states_nothing_keeps_the_options_of_the_run(self, run_of):
        run = run_of({"student": {"model": "vit-ti", **TINY, "drop_path": 0.1}})
        assert load_recipe("transfer-inat18", from_run=run).student.options == TINY | {"drop_path": 0.1}


@pytest.mark.parametrize("kind", ["best", "ema"])
def test_another_student_of_the_run(taught, kind):
    (taught / kind).mkdir()
    (taught / kind / "student.json").write_text("{}")
    recipe = load_recipe(from_run=taught / kind)
    assert (recipe.student.weights, recipe.seed) == (str(taught / kind), 7)


class TestRefusals:
    def test_a_missing_directory(self, tmp_path):
        path = tmp_path / "absent"
        assert refusal(RunDirectoryError, from_run=path) == f"there is no run directory '{path}'; check the path"

    def test_a_directory_that_is_not_a_run(self, tmp_path):
        assert refusal(RunDirectoryError, from_run=tmp_path) == (
            f"'{tmp_path}' is not a run directory (it has no recipe.toml); --from needs one"
        )

    def test_a_run_that_is_not_finished(self, run_of):
        former = run_of({}, finished=False)
        sentence = f"the run {former} is not finished; continue it with --resume {former}"
        assert refusal(RunDirectoryError, from_run=former) == sentence
        (former / "best").mkdir()
        assert refusal(RunDirectoryError, from_run=former) == (
            f"{sentence}, or give its best student so far, {former / 'best'}"
        )

    def test_a_recipe_that_this_version_cannot_read(self, taught):
        path = taught / "recipe.toml"
        path.write_text("[training]\nepoch = 3")
        assert refusal(RecipeError, from_run=taught) == (
            f"recipe '{path}': unknown key 'training.epoch'; did you mean 'training.epochs'?"
        )

    @pytest.mark.parametrize("value", ["a.pth", "none", ""])
    def test_from_together_with_student_weights(self, taught, value):
        assert refusal(RecipeError, from_run=taught, assignments=[f"student.weights={value}"]) == (
            f"--from {taught} and student.weights (--student-weights) both set the initial weights of the student; "
            "leave one of them out"
        )

    def test_no_smoke_table(self, taught):
        assert refusal(RecipeError, from_run=taught, smoke=True) == (
            f"recipe '{taught / 'recipe.toml'}' has no [smoke] table; add one, or shorten the run with "
            "--set training.steps=2"
        )


def test_a_run_of_an_earlier_version_passes_on_how_it_reads_images(run_of):
    run = run_of({"seed": 3})
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('orientation = "exif"\n', ""))
    assert load_recipe(from_run=run).augment.orientation == "stored"
    assert load_recipe(from_run=run, assignments=["augment.orientation=exif"]).augment.orientation == "exif"


def test_loss_options_of_a_recipe_do_not_change_an_inherited_loss(run_of):
    run = run_of({"losses": [{"loss": "soft"}]})
    assert load_recipe("deit-384", from_run=run).losses == (LossEntry(loss="soft"),)
    assert load_recipe("deit-384", from_run=run, loss="soft").losses == (LossEntry(loss="soft", reduction="numel"),)


def test_loss_options_of_a_run_hold_for_a_new_loss(run_of):
    run = run_of({"losses": [{"loss": "hard"}], "loss_options": {"soft": {"tau": 2.0}}})
    assert load_recipe(from_run=run, loss="soft").losses == (LossEntry(loss="soft", tau=2.0),)
    assert load_recipe("deit-384", from_run=run, loss=["hard", "soft:lambda=0.5"]).losses == (
        LossEntry(loss="hard"),
        LossEntry(loss="soft", tau=2.0, reduction="numel", **{"lambda": 0.5}),
    )
