"""The keys in which recipes differ, and names of arms."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.comparison.differing_keys import LONGEST_NAME, arm_names, differing, flat_recipe

BASE = {"seed": 0, "data.seed": 0, "student.model": "deit-ti", "training.steps": 10}


def entries(*names, **options):
    return [{"name": name, **options} for name in names]


def test_a_flat_recipe():
    recipe = {"about": {"summary": "x"}, "seed": 3, "training": {"steps": 5}, "losses": [1], "teachers": [2]}
    one = flat_recipe(recipe, {"teachers": entries("a", size=8), "losses": entries("soft", tau=2.0)})
    assert one == {
        "seed": 3,
        "training.steps": 5,
        "teacher": "a",
        "teacher.size": 8,
        "loss": "soft",
        "loss.tau": 2.0,
    }
    two = flat_recipe(recipe, {"teachers": [], "losses": entries("soft", "hard", weight=0.5)})
    assert two == {
        "seed": 3,
        "training.steps": 5,
        "teacher": "none",
        "loss": "soft, hard",
        "losses.soft.weight": 0.5,
        "losses.hard.weight": 0.5,
    }
    assert flat_recipe({}, {"losses": []}) == {"loss": "ce"}


def test_seeds_make_no_difference():
    assert differing([BASE, BASE | {"seed": 1, "data.seed": 2}]) == ()


def test_only_differing_keys_in_the_order_of_the_recipe():
    assert differing([BASE, BASE | {"training.steps": 20, "student.model": "vit-s"}]) == (
        "student.model",
        "training.steps",
    )


def test_a_key_that_one_recipe_lacks_differs():
    assert differing([BASE, BASE | {"student.width": 96}]) == ("student.width",)


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        # The option of another loss, teacher or student follows from the name, which differs anyway.
        ({"loss": "ce"}, {"loss": "soft", "loss.tau": 2.0}, ("loss",)),
        ({"loss": "soft", "loss.tau": 1.0}, {"loss": "soft", "loss.tau": 2.0}, ("loss.tau",)),
        ({"loss": "hard", "loss.weight": 0.5}, {"loss": "soft", "loss.weight": 0.9}, ("loss", "loss.weight")),
        ({"teacher": "none"}, {"teacher": "a", "teacher.size": 224}, ("teacher",)),
        ({"student.model": "small-cnn"}, {"student.model": "vit-s", "student.patch": 4}, ("student.model",)),
    ],
)
def test_what_follows_from_another_key_is_not_listed(one, other, keys):
    assert differing([BASE | one, BASE | other]) == keys


def test_an_option_that_a_recipe_states_is_listed_even_if_the_other_loss_has_none():
    one, other = BASE | {"loss": "ce"}, BASE | {"loss": "soft", "loss.tau": 2.0, "loss.reduction": "batchmean"}
    assert differing([one, other], {"loss.tau"}) == ("loss", "loss.tau")
    assert differing([other, other], {"loss.tau"}) == ()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{"loss": "hard", "loss.weight": 0.5}, {"loss": "soft", "loss.weight": 0.9}], ("hard", "soft")),
        ([{"optimizer.lr": 1e-3}, {"optimizer.lr": 3e-3}], ("lr=0.001", "lr=0.003")),
        ([{"bank": None}, {"bank": "b"}], ("bank=default", "bank=b")),
        (
            [{"loss": "hard", "lr": 1}, {"loss": "hard", "lr": 2}, {"loss": "soft", "lr": 1}],
            ("hard lr=1", "hard lr=2", "soft lr=1"),
        ),
        (
            [{"a.seed": 1, "b.seed": 1}, {"a.seed": 1, "b.seed": 2}, {"a.seed": 2, "b.seed": 1}],
            ("a.seed=1 b.seed=1", "a.seed=1 b.seed=2", "a.seed=2 b.seed=1"),
        ),
        (
            [{"loss": "ce"}, {"loss": "soft", "loss.tau": 1.0}, {"loss": "soft", "loss.tau": 4.0}],
            ("ce", "soft tau=1.0", "soft tau=4.0"),
        ),
        ([{"teacher.weights": "x" * LONGEST_NAME}, {"teacher.weights": "y"}], ("arm 1", "arm 2")),
    ],
)
def test_names_of_arms(settings, names):
    assert arm_names(settings) == names


KEYS = st.sampled_from(["loss", "teacher", "student.model", "optimizer.lr", "data.lr", "training.steps"])
VALUES = st.one_of(st.none(), st.integers(0, 3), st.text(max_size=3), st.booleans(), st.lists(st.integers(0, 1)))


ARMS = st.lists(
    st.dictionaries(KEYS, VALUES, min_size=1),
    min_size=1,
    max_size=6,
    unique_by=lambda arm: json.dumps(arm, sort_keys=True),
)


@given(ARMS)
def test_names_of_arms_are_unique_and_short(settings):
    names = arm_names(settings)
    assert len(set(names)) == len(names) == len(settings)
    assert all(0 < len(name) <= LONGEST_NAME for name in names)
