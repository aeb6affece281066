"""The grid: how values are split and typed, which arms there are, and their names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.errors import RecipeError
from distillkit.recipe.overrides import parse_value
from distillkit.sweeping.grid import GridAxis, SweepArm, arms_of, as_text, axes_of_table, parse_axis, split_values

PAIR = 'it should be a list of 2 values, one per key, with text in double quotes, such as [2, "hard"]'


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=0,1,2", ["0", "1", "2"]),
        ("loss=hard,soft:tau=2,weight=0.9,ce", ["hard", "soft:tau=2,weight=0.9", "ce"]),
        ('loss=hard,["hard","soft:tau=2"]', ["hard", '["hard","soft:tau=2"]']),
        ("augment.scale=[0.08,1.0],[0.5,1.0]", ["[0.08,1.0]", "[0.5,1.0]"]),
        ("augment.auto=rand-m9,'a,b'", ["rand-m9", "'a,b'"]),
        ("training.clip=,1.0", ["", "1.0"]),
        ("teacher=run:runs/a, run:runs/b", ["run:runs/a", "run:runs/b"]),
    ],
)
def test_commas_separate_values_outside_brackets_quotes_and_the_options_of_a_loss(text, values):
    assert parse_axis(text) == GridAxis((text.partition("=")[0],), tuple((value,) for value in values))


def test_several_keys_change_together():
    assert parse_axis("student.width,student.heads=[64,4],[128,8]") == GridAxis(
        ("student.width", "student.heads"), (("64", "4"), ("128", "8"))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "--grid seed has no values; write KEY=VALUE,VALUE, such as seed=0,1,2"),
        ("seed=", "--grid seed= has no values; write KEY=VALUE,VALUE, such as seed=0,1,2"),
        ("=1", "--grid: '' is not a recipe key; write KEY=VALUE,VALUE, such as seed=0,1,2"),
        ("a..b=1", "--grid: 'a..b' is not a recipe key; write KEY=VALUE,VALUE, such as seed=0,1,2"),
        ("seed=1,2,1", "--grid: 'seed' has the value '1' twice; leave one out"),
        ("a,b=[1,2],3", f"--grid: 'a,b' has the value 3; {PAIR}"),
        ("a,b=[2,hard]", f"--grid: 'a,b' has the value [2,hard]; {PAIR}"),
        ("a,b=[1,2,3]", f"--grid: 'a,b' has the value [1, 2, 3]; {PAIR}"),
    ],
)
def test_an_axis_that_is_wrong_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_axis(text)
    assert str(caught.value) == message


def test_a_table_has_a_list_of_values_per_key():
    table = {
        "loss": ["hard", {"loss": "soft", "tau": 2}, ["ce", "hard"]],
        "optimizer": {"lr": [0.001, 3e-4]},
        "student.width,student.heads": [[64, 4]],
        "training": {"compile": [True, False]},
    }
    assert axes_of_table(table) == [
        GridAxis(("loss",), (("hard",), ("soft:tau=2",), ('["ce", "hard"]',))),
        GridAxis(("optimizer.lr",), (("0.001",), ("0.0003",))),
        GridAxis(("student.width", "student.heads"), (("64", "4"),)),
        GridAxis(("training.compile",), (("true",), ("false",))),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"seed": 3}, "'sweep.grid.seed' is 3; it should be a list of values, such as [0, 1, 2]"),
        ({"seed": []}, "'sweep.grid.seed' has no values; write a list of values, such as [0, 1, 2]"),
    ],
)
def test_a_table_that_is_wrong_is_refused(table, message):
    with pytest.raises(RecipeError) as caught:
        axes_of_table(table)
    assert str(caught.value) == message


toml_values = st.recursive(
    st.text(min_size=1).filter(lambda text: "\0" not in text)
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(toml_values)
def test_a_value_of_a_file_is_the_same_after_it_is_typed(value):
    assert parse_value(as_text(value).strip()) == value


@given(st.lists(st.text("ab[]{}()'\", ", max_size=6), min_size=1, max_size=4))
def test_splitting_loses_no_character_but_commas_and_outer_blanks(parts):
    text = ",".join(parts)
    assert "".join("".join(split_values(text)).split()).replace(",", "") == "".join(text.split()).replace(",", "")


def test_the_last_axis_changes_fastest():
    arms = arms_of([parse_axis("loss=hard,soft:tau=2"), parse_axis("seed=0,1")])
    assert arms == (
        SweepArm("loss=hard_seed=0", {"loss": "hard", "seed": "0"}),
        SweepArm("loss=hard_seed=1", {"loss": "hard", "seed": "1"}),
        SweepArm("loss=soft-tau=2_seed=0", {"loss": "soft:tau=2", "seed": "0"}),
        SweepArm("loss=soft-tau=2_seed=1", {"loss": "soft:tau=2", "seed": "1"}),
    )


def test_names_are_single_folders_that_differ():
    arms = arms_of([parse_axis("teacher=run:a/b,run:a-b,../x"), parse_axis("training.clip=,1.0")])
    digest = "[0-9a-f]{8}"
    patterns = [
        *(f"teacher=run-a-b_training.clip={clip}_{digest}" for clip in ("default", "1.0") * 2),
        *(f"teacher=..-x_training.clip={clip}" for clip in ("default", "1.0")),
    ]
    assert len({arm.name for arm in arms}) == len(arms)
    assert all(re.fullmatch(pattern, arm.name) for pattern, arm in zip(patterns, arms, strict=True))


def test_an_arm_keeps_its_name_when_the_grid_grows():
    small = {arm.name for arm in arms_of([parse_axis("seed=0,1")])}
    assert small < {arm.name for arm in arms_of([parse_axis("seed=0,1,2")])}


def test_a_long_name_is_cut():
    (arm,) = arms_of([parse_axis(f"data={'x' * 300}")])
    assert len(arm.name.encode()) == 200


def test_a_key_in_two_axes_is_refused():
    with pytest.raises(RecipeError) as caught:
        arms_of([parse_axis("epochs=1,2"), parse_axis("training.epochs=3")])
    message = "the grid sets 'training.epochs' twice; write its values once, such as training.epochs=VALUE,VALUE"
    assert str(caught.value) == message


def test_a_grid_of_too_many_arms_is_refused():
    axis = ",".join(map(str, range(101)))
    with pytest.raises(RecipeError) as caught:
        arms_of([parse_axis(f"seed={axis}"), parse_axis(f"data.seed={axis}")])
    assert str(caught.value) == "the grid has 10,201 arms, more than the limit of 10,000; leave out some values"
