"""The space of a search: ranges and lists of values, and what is planned before it starts."""

import pytest

from distillkit.errors import RecipeError
from distillkit.sweeping.search_space import Choice, Range, parse_domain, parse_space, probes, space_of


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("1e-4..1e-2:log", Range(1e-4, 1e-2, log=True)),
        ("0..0.3", Range(0, 0.3)),
        ("0.0..0.4:step=0.1", Range(0.0, 0.4, step=0.1)),
        ("2..6", Range(2, 6)),
        ("-3..-1", Range(-3, -1)),
        ("32..128:step=32", Range(32, 128, step=32)),
        (".5..1.", Range(0.5, 1.0)),
        ("1,2,4", Choice(("1", "2", "4"))),
        ("[0.08,1.0],[0.5,1.0]", Choice(("[0.08,1.0]", "[0.5,1.0]"))),
    ],
)
def test_a_domain_is_a_range_or_a_list(text, domain):
    assert parse_domain(text, key="k", where="--search") == domain


@pytest.mark.parametrize(("text", "is_integer"), [("2..6", True), ("2..6.0", False), ("2..6:step=0.5", False)])
def test_a_range_of_integers_has_integers_only(text, is_integer):
    assert parse_domain(text, key="k", where="--search").is_integer is is_integer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2..1", "--search k=2..1: 2 is not below 1; write LOW..HIGH"),
        ("0..1:log", "--search k=0..1:log: a logarithmic range starts above 0, not at 0"),
        ("0..1:step=0", "--search k=0..1:step=0: the step is 0; it should be above 0"),
        ("0..1:step=2", "--search k=0..1:step=2: the step is larger than the range"),
        ("1,1", "--search k=1,1 has a value twice; leave one out"),
        *(
            (
                text,
                (
                    f"--search k={text} is no range and no list of values; write KEY=LOW..HIGH, KEY=LOW..HIGH:log, "
                    "KEY=LOW..HIGH:step=STEP or KEY=VALUE,VALUE"
                ),
            )
            for text in ("1", "1..", "1..2:lin", "a..b", "1..2,3")
        ),
    ],
)
def test_a_domain_that_is_wrong_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_domain(text, key="k", where="--search")
    assert str(caught.value) == message


def test_an_option_replaces_the_key_of_the_table():
    table = {"optimizer": {"lr": "1e-4..1e-2:log"}, "training.epochs": [5, 10]}
    assert space_of(table, ["epochs=1..3", "labels.smoothing=0..0.1"]) == {
        "optimizer.lr": "1e-4..1e-2:log",
        "epochs": "1..3",
        "labels.smoothing": "0..0.1",
    }


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        ({"seed": 3}, [], "'sweep.search.seed' is 3; it should be a range, such as '1e-4..1e-2:log', or a list"),
        (
            {},
            ["seed"],
            (
                "--search seed has no range and no values; write KEY=LOW..HIGH, KEY=LOW..HIGH:log, "
                "KEY=LOW..HIGH:step=STEP or KEY=VALUE,VALUE"
            ),
        ),
        ({}, ["seed=1..2", "seed=3..4"], "--search sets 'seed' twice; write its range once"),
    ],
)
def test_a_space_that_is_wrong_is_refused(table, given, message):
    with pytest.raises(RecipeError) as caught:
        space_of(table, given)
    assert str(caught.value) == message


def test_every_end_and_every_choice_is_planned_once():
    space = parse_space({"a": "1..3", "b": "x,y,z"})
    assert list(probes(space)) == [
        {"a": "1", "b": "x"},
        {"a": "3", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "1", "b": "z"},
    ]
