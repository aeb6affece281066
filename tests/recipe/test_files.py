"""Recipes from files and the command line, and written back to files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from distillkit.errors import RecipeError
from distillkit.recipe.files import (
    WRITTEN_IN_FULL,
    dump,
    keys_added_later,
    load_recipe,
    named_recipes,
    read_tables,
)
from distillkit.recipe.image_tables import Augment, Data
from distillkit.recipe.schema import (
    Labels,
    LossEntry,
    Optimizer,
    Recipe,
    Schedule,
    StudentEntry,
    TeacherEntry,
    Training,
)


@pytest.fixture
def write(tmp_path):
    """Write a recipe file and return its path as a user would type it."""

    def write_file(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


def refusal(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        load_recipe(*arguments, **options)
    return str(caught.value)


class TestChoice:
    @pytest.mark.parametrize("overrides", [{}, {"data.train": "digits"}, {"training.epochs": 3}])
    def test_digits_get_the_digits_recipe(self, overrides):
        assert load_recipe(**overrides).student.options["image_size"] == 8

    @pytest.mark.parametrize("overrides", [{"data.train": "pictures"}, {"data.unlabeled": "pictures"}])
    def test_other_data_gets_the_default_recipe(self, overrides):
        assert load_recipe(**overrides).about == load_recipe("default").about

    def test_an_assignment_selects_the_recipe_like_an_option(self):
        assert load_recipe(assignments=["data.train=pictures"]).about == load_recipe("default").about

    def test_a_file_has_no_implicit_base(self, write):
        assert load_recipe(write("seed = 3")) == Recipe(seed=3)


class TestLayers:
    def test_a_file_overrides_its_base(self, write):
        path = write('base = "deit-ti"\n[training]\nbatch_size = 256\n[student]\npatch = 8\n')
        recipe = load_recipe(path)
        base = load_recipe("deit-ti")
        assert recipe.training == base.training.model_copy(update={"batch_size": 256})
        assert recipe.student.options == {"drop_path": 0.1, "patch": 8}
        assert recipe.augment == base.augment

    def test_a_base_is_relative_to_the_file(self, write, tmp_path):
        (tmp_path / "deeper").mkdir()
        write("seed = 3\n[training]\nepochs = 5", "lowest.toml")
        write('base = "../lowest.toml"\n[training]\nbatch_size = 8', "deeper/middle.toml")
        recipe = load_recipe(write('base = "deeper/middle.toml"\n[data]\nlabels = 10'))
        assert recipe == Recipe(seed=3, training=Training(epochs=5, batch_size=8), data=Data(labels=10))

    def test_the_command_line_overrides_smoke_and_smoke_overrides_the_file(self, write):
        path = write("[training]\nepochs = 300\nbatch_size = 1024\n[smoke.training]\nsteps = 2\nbatch_size = 8\n")
        assert load_recipe(path).training == Training(epochs=300, batch_size=1024)
        assert load_recipe(path, smoke=True).training == Training(steps=2, batch_size=8)
        assert load_recipe(path, smoke=True, **{"training.batch_size": 4}).training == Training(steps=2, batch_size=4)

    def test_assignments_override_options(self):
        recipe = load_recipe(**{"training.epochs": 3, "seed": 1}, assignments=["training.epochs=4"])
        assert (recipe.training.epochs, recipe.seed) == (4, 1)

    def test_the_smoke_tables_of_a_base_are_inherited(self, write):
        path = write('base = "deit-ti"\n[smoke]\ntraining.batch_size = 2\n')
        assert load_recipe(path, smoke=True).training == Training(steps=2, batch_size=2)

    def test_a_teacher_and_losses_from_options_replace_those_of_the_recipe(self):
        recipe = load_recipe(
            "deit-ti",
            **{
                "teachers": [{"model": "run:runs/teacher"}],
                "losses": [{"loss": "soft", "tau": 2}],
                "teacher.size": "native",
            },
            assignments=["loss.weight=.9"],
        )
        assert recipe.teachers == (TeacherEntry(model="run:runs/teacher", size="native"),)
        numel = {"loss": "soft", "weight": 0.9, "tau": 2, "reduction": "numel"}
        assert recipe.losses == (LossEntry.model_validate(numel),)

    def test_another_optimiser_drops_the_options_of_the_lower_one(self, write):
        path = write("[optimizer]\nbetas = [0.9, 0.95]\neps = 1e-6\nlr = 0.1\nlr_base_batch = 256\n")
        changed = load_recipe(path, assignments=["optimizer.name=sgd", "optimizer.momentum=0.8"]).optimizer
        assert changed == Optimizer(name="sgd", lr=0.1, lr_base_batch=256, momentum=0.8)
        same = load_recipe(path, assignments=["optimizer.name=adamw", "optimizer.lr=0.2"]).optimizer
        assert same == Optimizer(name="adamw", lr=0.2, lr_base_batch=256, betas=(0.9, 0.95), eps=1e-6)

    def test_the_arguments_of_the_caller_are_not_changed(self):
        teachers = [{"model": "vit-b"}]
        load_recipe(**{"teachers": teachers, "teacher.size": "native"})
        assert teachers == [{"model": "vit-b"}]

    def test_an_empty_value_resets_a_key_to_its_default(self):
        assert load_recipe("cifar10-few-labels", assignments=["data.labels="]).data == Data()

    @pytest.mark.parametrize(
        ("assignment", "value"),
        [
            ("student.image_size=384", {"model": "deit-ti", "drop_path": 0.1, "image_size": 384}),
            ("student.model=vit-s", {"model": "vit-s", "drop_path": 0.1}),
        ],
    )
    def test_options_of_a_plugin_are_kept_unchecked(self, assignment, value):
        student = load_recipe("deit-ti", assignments=[assignment]).student
        assert student.model_dump(exclude_none=True) == value

    def test_strings_and_numbers(self):
        recipe = load_recipe(assignments=["augment.auto=rand-m9-mstd0.5-inc1", "training.clip=1.0"])
        assert recipe.augment.auto == "rand-m9-mstd0.5-inc1"
        assert recipe.training.clip == 1.0


class TestUnset:
    """A file resets keys of its base, and of a run, to their defaults."""

    def test_keys_of_a_base(self, write):
        path = write('base = "deit-ti"\nunset = ["training.clip", "student.drop_path", "teachers", "losses"]\n')
        recipe, base = load_recipe(path), load_recipe("deit-ti")
        assert (recipe.training.clip, recipe.student.options, recipe.teachers, recipe.losses) == (None, {}, (), ())
        assert recipe.training.batch_size == base.training.batch_size

    def test_a_key_that_the_file_sets_itself(self, write):
        assert load_recipe(write('base = "deit-ti"\nunset = ["training"]\n[training]\nepochs = 3\n')).training == (
            Training(epochs=3)
        )

    def test_a_key_of_a_base_of_a_base_and_of_the_smoke_tables(self, write):
        write('base = "deit-ti"\nunset = ["student.drop_path", "training.batch_size"]\n', "lower.toml")
        path = write('base = "lower.toml"\n[smoke.training]\nsteps = 1\n')
        assert load_recipe(path, smoke=True).student == StudentEntry(model="deit-ti")
        assert load_recipe(path).training.batch_size == Training().batch_size

    def test_a_key_of_a_run(self, write, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        (run / "recipe.toml").write_text(dump(Recipe(data=Data(labels=5), training=Training(clip=1.0))))
        (run / "result.json").write_text("{}")
        recipe = load_recipe(write('unset = ["training.clip"]\n'), from_run=run)
        assert (recipe.training.clip, recipe.data.labels) == (None, 5)
        on_a_base = write('base = "deit-384"\nunset = ["data.labels", "student.drop_path"]\n')
        recipe = load_recipe(on_a_base, from_run=run)
        assert (recipe.data.labels, recipe.student.options) == (None, {"image_size": 384})

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ('"training.clip"', "'training.clip'; it should be a list of keys, such as [\"training.clip\"]"),
            ("[3]", '[3]; it should be a list of keys, such as ["training.clip"]'),
        ],
    )
    def test_anything_but_a_list_of_keys(self, write, value, sentence):
        path = write(f"unset = {value}")
        assert refusal(path) == f"recipe '{path}': 'unset' is {sentence}"

    def test_unknown_keys(self, write):
        path = write('base = "deit-ti"\nunset = ["training.clp", "student.anything", "training.clip"]')
        assert refusal(path) == f"recipe '{path}': 'unset': unknown key 'training.clp'; did you mean 'training.clip'?"

    def test_a_key_in_a_list(self, write):
        path = write('base = "deit-ti"\nunset = ["teacher.size"]')
        assert refusal(path) == (
            f"recipe '{path}': 'unset' names 'teacher.size', but a recipe replaces its `teachers` as a whole; write "
            "the list without this key"
        )


class TestRefusals:
    def test_all_problems_are_listed_in_one_error(self):
        assert refusal(
            assignments=["foo", "teacher.size=96", "training.epoch=3", "augment.flip=2"],
            **{"evaluation.head": "both"},
        ) == (
            "5 problems\n"
            "  'foo' is not a setting; write key=value, such as training.epochs=20\n"
            "  'teacher.size' needs a teacher; name one with --teacher, or in the recipe's `teachers`\n"
            "  'augment.flip' is 2; it should be less than or equal to 1\n"
            "  unknown key 'training.epoch'; did you mean 'training.epochs'?\n"
            "  'evaluation.head' is 'both'; it should be 'fused', 'class' or 'distill'"
        )

    def test_a_wrong_key_in_a_file_names_the_file(self, write):
        path = write("[training]\nepoch = 3")
        assert refusal(path) == f"recipe '{path}': unknown key 'training.epoch'; did you mean 'training.epochs'?"

    def test_an_unknown_name(self):
        assert refusal("diet-ti") == (
            "unknown recipe 'diet-ti'; did you mean 'deit-ti'? "
            "`distillkit recipes` lists the named recipes; to use a file, give a name that ends with .toml"
        )
        assert refusal("zzz") == (
            "unknown recipe 'zzz'; `distillkit recipes` lists the named recipes; to use a file, give a name that ends "
            "with .toml"
        )

    def test_a_missing_file(self, tmp_path):
        path = tmp_path / "absent.toml"
        assert refusal(str(path)) == f"recipe '{path}' does not exist; `distillkit recipes` lists the named recipes"

    def test_a_directory(self, tmp_path):
        assert refusal(f"{tmp_path}/") == (
            f"recipe '{tmp_path}' is a directory; give a file, such as {tmp_path}/recipe.toml"
        )

    def test_a_file_that_is_not_toml(self, write):
        path = write("seed: 3\n")
        assert refusal(path) == (
            f"recipe '{path}' is not valid TOML: expected '=' after a key in a key/value pair (at line 1, column 5)"
        )

    def test_a_file_that_is_not_text(self, tmp_path):
        path = tmp_path / "weights.toml"
        path.write_bytes(b"\x80\x02")
        assert refusal(str(path)) == f"recipe '{path}' is not text in UTF-8; a recipe is a TOML file"

    def test_a_path_through_a_file(self, write):
        path = write("seed = 3") + "/recipe.toml"
        assert refusal(path) == f"recipe '{path}' cannot be read: Not a directory"

    def test_a_cycle_of_bases(self, write):
        write('base = "b.toml"', "a.toml")
        path = write('base = "a.toml"', "b.toml")
        assert (
            refusal(path)
            == "recipe 'b.toml' is its own base: b.toml -> a.toml -> b.toml; remove one of the `base` keys"
        )

    def test_a_base_that_is_not_a_name(self, write):
        path = write("base = 3")
        assert refusal(path) == f"recipe '{path}': 'base' is 3; it should be the name or the file of a recipe"

    def test_no_smoke_table(self, write):
        path = write("seed = 3")
        assert refusal(path, smoke=True) == (
            f"recipe '{path}' has no [smoke] table; add one, or shorten the run with --set training.steps=2"
        )


names = st.text("abcdefghij-", min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)  # no recipe has a NUL in it
shares = st.floats(0, 1)
positives = st.floats(1e-9, 1e9)
counts = st.integers(1, 10**6)
# Options of a plugin: anything that TOML can express.
options = st.dictionaries(
    st.sampled_from(["tau", "patch", "image size", "ü"]),
    st.recursive(
        st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


def filled(table, **fields):
    return st.builds(table, **{name: st.none() | values for name, values in fields.items()})


@st.composite
def recipes(draw):
    teachers = tuple(
        TeacherEntry.model_validate({"model": name, "size": draw(st.sampled_from(["auto", 224])), **draw(options)})
        for name in draw(st.lists(names, max_size=3, unique=True))
    )
    losses = tuple(
        LossEntry.model_validate(
            {"loss": name, "teacher": draw(st.sampled_from(teachers)).name if teachers else None, **draw(options)}
        )
        for name in draw(st.lists(names, max_size=3, unique=True))
    )
    return Recipe(
        seed=draw(st.integers(0, 2**31)),
        data=draw(filled(Data, train=texts, unlabeled=texts, labels=counts, labeled_fraction=st.just(0.5))),
        augment=draw(st.builds(Augment, scale=st.tuples(shares, shares), flip=shares, auto=texts, repeats=counts)),
        labels=draw(filled(Labels, weight=positives)),
        teachers=teachers,
        student=StudentEntry.model_validate(
            {"model": draw(names), "weights": draw(texts | st.none()), **draw(options)}
        ),
        losses=losses,
        training=draw(filled(Training, steps=counts, clip=positives, threads=counts)),
        optimizer=draw(filled(Optimizer, lr_base_batch=counts, betas=st.tuples(shares, shares), eps=positives)),
        schedule=draw(st.builds(Schedule, warmup_epochs=st.floats(0, 50), min_lr=shares)),
        trackers=tuple(draw(st.lists(names, max_size=2))),
    )


@given(recipe=recipes())
def test_a_dumped_recipe_loads_to_an_equal_one(recipe, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    path.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_optional_keys_default_to_none():
    """`dump` leaves out keys that are None, so they must load as None."""

    def optional_fields(table):
        for name, field in table.model_fields.items():
            if type(None) in getattr(field.annotation, "__args__", ()):
                yield name, field

    tables = [Recipe, TeacherEntry, StudentEntry, LossEntry]
    tables += [type(value) for value in dict(Recipe()).values() if isinstance(value, BaseModel)]
    assert {name: field.default for table in tables for name, field in optional_fields(table) if field.default} == {}


def test_read_tables_keeps_the_smoke_tables():
    assert read_tables("deit-s")["smoke"]["training"] == {"steps": 2, "batch_size": 6}
    assert "base" not in read_tables("deit-s")


def test_recipes_of_earlier_runs_keep_their_name_for_a_trained_student(tmp_path):
    (tmp_path / "old.toml").write_text("[about]\ngoes_on = true\n", encoding="utf-8")
    recipe = load_recipe(str(tmp_path / "old.toml"))
    assert recipe.about.needs_trained_student
    assert "needs_trained_student = true" in dump(recipe)
    assert "goes" + "_on" not in dump(recipe)


class TestLossOptions:
    FILE = '[loss_options.soft]\ntau = 5\nreduction = "numel"\n'

    def test_a_loss_has_the_options_of_its_table_that_it_does_not_set(self, write):
        path = write(self.FILE + '[[losses]]\nloss = "hard"\n[[losses]]\nloss = "soft"\ntau = 1\n')
        assert [entry.options for entry in load_recipe(path).losses] == [{}, {"tau": 1, "reduction": "numel"}]

    def test_the_table_survives_a_dump_and_a_recipe_object(self, write):
        recipe = load_recipe(write(self.FILE))
        for again in (write(dump(recipe)), recipe):
            (entry,) = load_recipe(again, loss="soft").losses
            assert entry.options == {"tau": 5, "reduction": "numel"}

    def test_the_command_line_changes_the_table_and_the_loss(self, write):
        path = write(self.FILE)
        (entry,) = load_recipe(
            path, loss="soft", assignments=["loss_options.soft.tau=2", "loss.reduction=batchmean"]
        ).losses
        assert entry.options == {"tau": 2, "reduction": "batchmean"}

    def test_a_table_that_is_not_one_is_refused(self, write):
        assert refusal(write("loss_options = 3")).endswith(": 'loss_options' is 3; it should be a table")

    def test_no_losses(self, write):
        assert load_recipe(write(self.FILE)).losses == ()


class TestRecipesOfEarlierVersions:
    """A run's recipe from before a key existed keeps its meaning."""

    def test_a_recipe_in_full_without_orientation_uses_images_as_stored(self, write):
        text = dump(Recipe(seed=3)).replace('orientation = "exif"\n', "")
        assert "orientation" not in text
        path = write(text)
        assert load_recipe(path).augment == Augment(orientation="stored")
        assert load_recipe(path, assignments=["augment.orientation=exif"]) == Recipe(seed=3)
        assert keys_added_later(Path(path)) == {"augment.orientation"}

    def test_a_recipe_in_full_without_the_late_cosine_keeps_one_over_all_steps(self, write):
        text = dump(load_recipe("attndistill-subset-vitt16")).replace("cosine_after_warmup = true\n", "")
        assert "cosine_after_warmup" not in text
        assert load_recipe(write(text, "run.toml")).schedule.cosine_after_warmup is False

    @pytest.mark.parametrize("orientation", ["exif", "stored"])
    def test_a_recipe_that_states_it_is_read_as_it_is(self, write, orientation):
        recipe = Recipe(augment=Augment(orientation=orientation))
        path = write(dump(recipe))
        assert load_recipe(path) == recipe
        assert keys_added_later(Path(path)) == set()

    def test_other_recipes_have_the_new_default(self, write):
        assert load_recipe(write("[augment]\nflip = 0.0\n")).augment.orientation == "exif"
        for named in named_recipes():
            assert not read_tables(named.name).keys() >= WRITTEN_IN_FULL
            assert load_recipe(named.name).augment.orientation == "exif"
