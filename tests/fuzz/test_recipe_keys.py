"""Recipes with `unset`, `[loss_options.NAME]` and the keys of a target bank: a recipe, or a one-line error."""

from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.messages.validation import known_keys
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import LossEntry, Recipe, StudentEntry, TeacherEntry
from tests.fuzz.test_recipes import KEYS, loads_again, plain, texts, values

FUZZ = settings.get_profile("fuzz")
BASES = ["deit-ti", "attndistill-ti", "transfer-cifar10", "digits"]
OPTIONS = ["tau", "weight", "reduction", "head", "teacher", "name", "loss", "kind"]
entry_keys = [f"student.{key}" for key in known_keys(StudentEntry)] + [
    f"teacher.{key}" for key in known_keys(TeacherEntry)
]
entry_keys += [f"loss.{key}" for key in known_keys(LossEntry)] + [
    "losses",
    "teachers.a.weights",
    "student.patch",
    "base",
]
unset_keys = st.sampled_from([*KEYS, *entry_keys, "smoke.training.steps", "unset", "", ".", "a..b"]) | texts
losses = st.sampled_from(["soft", "hard", "ce", "attndistill", "advit-l1", "unknown"])


@pytest.fixture
def load(attempt, tmp_path):
    """`load(kind, tables, ...)`: the recipe in a file with these tables; an accepted one loads again."""

    def loaded(kind: str, tables, **options):
        path = tmp_path / "recipe.toml"
        path.write_text(tomli_w.dumps(tables), encoding="utf-8")
        recipe = attempt(kind, lambda: load_recipe(str(path), **options))
        if recipe is not None:
            loads_again(recipe, tmp_path / "written.toml")
        return recipe

    return loaded


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(
    base=st.sampled_from(BASES),
    unset=st.lists(unset_keys, max_size=4) | values,
    own=st.dictionaries(st.sampled_from(["seed", "bank", "data", "training", "student"]), values, max_size=2),
)
def test_unset_keys(load, base, unset, own):
    load("recipe file, unset keys", {"base": base, "unset": unset, **own})


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(base=st.sampled_from(BASES), key=st.sampled_from(KEYS))
def test_every_key_can_be_unset(load, tmp_path, base, key):
    """It has its default then, whatever the base says; the default data is that of the teacher."""
    recipe = load("recipe file, unset keys", {"base": base, "unset": [key]})
    if recipe is None:
        return
    found, default = recipe.model_dump(), load_recipe(str(file_without(key, recipe, tmp_path))).model_dump()
    for part in key.split("."):
        found, default = found[part], default[part]
    if not key.startswith("about"):
        assert found == default


def file_without(key: str, recipe: Recipe, folder: Path) -> Path:
    """A recipe file with nothing but the teachers and losses of a recipe, unless the key is one of theirs."""
    kept = recipe.model_dump(include={"teachers", "losses"} - {key.partition(".")[0]}, exclude_none=True)
    path = folder / "default.toml"
    path.write_text(tomli_w.dumps(kept), encoding="utf-8")
    return path


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(
    tables=st.dictionaries(
        losses | texts, st.dictionaries(st.sampled_from(OPTIONS) | texts, values, max_size=3) | plain, max_size=3
    )
    | plain,
    loss=losses,
)
def test_loss_options(load, tables, loss):
    options = {"loss": loss, "teacher": "regnety16gf", "data": "digits"}
    load("recipe file, options of losses", {"loss_options": tables}, **options)
    load("recipe file, options of losses", {"base": "deit-ti", "loss_options": tables}, **options)


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(bank=values, limit=values)
def test_keys_of_a_bank(load, bank, limit):
    load("recipe file, keys of a target bank", {"bank": bank})
    load("recipe file, keys of a target bank", {"bank": bank, "bank_limit_gb": limit})
    load(
        "recipe file, keys of a target bank", {"teachers": [{"model": "regnety16gf", "weights": "bank"}], "bank": bank}
    )
