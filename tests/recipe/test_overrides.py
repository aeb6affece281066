"""`key=value` assignments, and merging of layers."""

import pytest

from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe
from distillkit.recipe.overrides import (
    INHERITED,
    REPLACED,
    UNSET,
    Assignment,
    as_tables,
    assign_to_entry,
    layered,
    parse_assignment,
    parse_loss,
    parse_value,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("384", 384),
        ("1.0", 1.0),
        ("5e-4", 5e-4),
        (".5", 0.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("true", True),
        ("True", "True"),
        ("[0.08, 1.0]", [0.08, 1.0]),
        ("{ a = 1 }", {"a": 1}),
        ('"2024"', "2024"),
        ("rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5-inc1"),
        ("timm:resnet18", "timm:resnet18"),
        ("/data/some folder", "/data/some folder"),
        ("2024-01-31", "2024-01-31"),
        ("1\nseed = 2", "1\nseed = 2"),
        ("a = b", "a = b"),
    ],
)
def test_a_value_is_toml_or_else_a_string(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_an_assignment_splits_at_the_first_equals_sign():
    assert parse_assignment("student.image_size = 384") == Assignment("student.image_size", 384)
    assert parse_assignment("data.train=a=b") == Assignment("data.train", "a=b")


def test_an_empty_value_unsets_the_key():
    assert parse_assignment("data.labels=").value is UNSET


@pytest.mark.parametrize("text", ["training.epochs", "=3", "training..epochs=3", ".epochs=3", "training.=3"])
def test_an_invalid_assignment_is_refused(text):
    with pytest.raises(RecipeError) as caught:
        parse_assignment(text)
    assert str(caught.value) == f"'{text}' is not a setting; write key=value, such as training.epochs=20"


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("hard", {"loss": "hard"}),
        ("soft:tau=2,weight=0.9", {"loss": "soft", "tau": 2, "weight": 0.9}),
        ("soft:reduction=numel", {"loss": "soft", "reduction": "numel"}),
        ("advit-l1:layers=[0, 5, 11],weight=.1", {"loss": "advit-l1", "layers": [0, 5, 11], "weight": 0.1}),
        ("soft:name=again", {"loss": "soft", "name": "again"}),
        ("soft:tau=", {"loss": "soft"}),
        ("soft:2", {"loss": "soft:2"}),
        ("mine:some-argument:tau=2", {"loss": "mine:some-argument", "tau": 2}),
        ("soft:path=a:b=c", {"loss": "soft", "path": "a:b=c"}),
    ],
)
def test_a_loss_with_its_options(text, entry):
    assert parse_loss(text) == entry


def test_a_loss_without_a_name_is_refused():
    with pytest.raises(RecipeError) as caught:
        parse_loss("")
    assert str(caught.value) == "a loss needs a name, such as hard or soft:tau=2,weight=0.9"
    for text in ("soft:0.5", "soft:-.5"):
        with pytest.raises(RecipeError) as number:
            parse_loss(text)
        assert str(number.value) == f"loss '{text}': options are KEY=VALUE, such as soft:tau=2"


def test_dotted_keys_nest_and_the_last_value_wins():
    assignments = [
        Assignment("seed", 1),
        Assignment("training.epochs", 1),
        Assignment("training.clip", 1.0),
        Assignment("training.epochs", 2),
    ]
    assert as_tables(assignments) == {"seed": 1, "training": {"epochs": 2, "clip": 1.0}}
    assert as_tables([Assignment("training", 5), Assignment("training.epochs", 2)]) == {"training": {"epochs": 2}}


def test_tables_merge_and_lists_are_replaced():
    lower = {"seed": 1, "augment": {"flip": 0.5, "scale": [0.1, 1.0]}, "losses": [{"loss": "hard"}]}
    upper = {"augment": {"scale": [0.2, 1.0]}, "losses": [{"loss": "soft"}]}
    assert layered(lower, upper) == {
        "seed": 1,
        "augment": {"flip": 0.5, "scale": [0.2, 1.0]},
        "losses": [{"loss": "soft"}],
    }


def test_layering_changes_neither_layer():
    lower = {"student": {"model": "deit-ti", "patch": 2}}
    upper = {"student": {"patch": 4, "position": {"kind": "learned"}}}
    layered(lower, upper)["student"]["position"]["kind"] = "none"
    assert lower == {"student": {"model": "deit-ti", "patch": 2}}
    assert upper == {"student": {"patch": 4, "position": {"kind": "learned"}}}


def test_an_unset_key_disappears():
    assert layered({"data": {"labels": 500, "seed": 1}}, {"data": {"labels": UNSET}}) == {"data": {"seed": 1}}
    assert layered({}, {"data": {"labels": UNSET}}) == {"data": {}}


@pytest.mark.parametrize(
    ("lower", "upper", "student"),
    [
        # The same student: its options are merged.
        ({"model": "deit-ti", "patch": 2}, {"width": 64}, {"model": "deit-ti", "patch": 2, "width": 64}),
        ({"model": "deit-ti", "patch": 2}, {"model": "deit-ti", "patch": 4}, {"model": "deit-ti", "patch": 4}),
        # The default student is deit-ti.
        ({"patch": 2}, {"model": "deit-ti"}, {"patch": 2, "model": "deit-ti"}),
        # Another student: the options of the first are set apart, its weights are kept.
        (
            {"model": "deit-ti", "patch": 2, "weights": "a.pth"},
            {"model": "timm:resnet18"},
            {"model": "timm:resnet18", "weights": "a.pth", INHERITED: {"patch": ("deit-ti", 2)}},
        ),
        (
            {"patch": 2, "depth": 4},
            {"model": "vit-s", "depth": 3},
            {"model": "vit-s", "depth": 3, INHERITED: {"patch": ("deit-ti", 2)}},
        ),
        ({"model": "deit-ti", "patch": 2}, {"model": "vit-s", "patch": UNSET}, {"model": "vit-s"}),
        # Weights of the new student do not fit the options of the first.
        (
            {"model": "deit-ti", "patch": 2},
            {"model": "vit-s", "weights": "pretrained"},
            {"model": "vit-s", "weights": "pretrained", REPLACED: {"patch": ("deit-ti", 2)}},
        ),
        # Random weights fit all options.
        (
            {"model": "deit-ti", "patch": 2},
            {"model": "vit-s", "weights": "none"},
            {"model": "vit-s", "weights": "none", INHERITED: {"patch": ("deit-ti", 2)}},
        ),
        # What a named recipe states for any student replaces an option of the lower layer.
        (
            {"model": "vit-s", "drop_path": 0.1, "patch": 8},
            {INHERITED: {"drop_path": (None, 0.0)}},
            {"model": "vit-s", "patch": 8, INHERITED: {"drop_path": (None, 0.0)}},
        ),
    ],
)
def test_the_student_of_an_upper_layer(lower, upper, student):
    assert layered({"student": lower}, {"student": upper}) == {"student": student}


def test_epochs_and_steps_replace_each_other():
    assert layered({"training": {"epochs": 9, "clip": 1.0}}, {"training": {"steps": 2}}) == {
        "training": {"steps": 2, "clip": 1.0}
    }
    assert layered({"training": {"steps": 2}}, {"training": {"epochs": 9}}) == {"training": {"epochs": 9}}
    assert layered({"training": {"steps": 2}}, {"training": {"clip": 1.0}}) == {"training": {"steps": 2, "clip": 1.0}}


TWO = {
    "teachers": [{"model": "timm:a.b"}, {"model": "timm:a.b.c", "size": 224}],
    "losses": [{"loss": "hard", "name": "first"}, {"loss": "hard"}],
}


def assigned(recipe, text):
    recipe = {name: [dict(entry) for entry in entries] for name, entries in recipe.items()}
    assign_to_entry(recipe, parse_assignment(text))
    return recipe


def test_the_only_entry_needs_no_name():
    assert assigned({"teachers": [{"model": "vit-b"}]}, "teacher.size=native") == {
        "teachers": [{"model": "vit-b", "size": "native"}]
    }
    assert assigned({"losses": [{"loss": "soft", "tau": 2}]}, "loss.tau=") == {"losses": [{"loss": "soft"}]}
    assert assigned({"losses": [{"loss": "mine", "map": {"a": 1}}]}, "loss.map.b=2") == {
        "losses": [{"loss": "mine", "map": {"a": 1, "b": 2}}]
    }


def test_an_entry_is_found_by_its_name_though_names_have_dots():
    assert assigned(TWO, "teachers.timm:a.b.size=96")["teachers"][0] == {"model": "timm:a.b", "size": 96}
    assert assigned(TWO, "teachers.timm:a.b.c.size=96")["teachers"][1] == {"model": "timm:a.b.c", "size": 96}
    assert assigned(TWO, "losses.first.weight=1")["losses"][0] == {"loss": "hard", "name": "first", "weight": 1}
    assert assigned(TWO, "losses.hard.weight=1")["losses"][1] == {"loss": "hard", "weight": 1}


@pytest.mark.parametrize(
    ("recipe", "text", "sentence"),
    [
        (
            {},
            "teacher.size=96",
            "'teacher.size' needs a teacher; name one with --teacher, or in the recipe's `teachers`",
        ),
        (
            {"losses": []},
            "loss.tau=2",
            "'loss.tau' needs a loss; name one with --loss, or in the recipe's `losses`",
        ),
        (
            TWO,
            "teacher.size=96",
            (
                "'teacher.size' is ambiguous with 2 teachers; "
                "write one of teachers.timm:a.b.size, teachers.timm:a.b.c.size"
            ),
        ),
        (
            TWO,
            "losses.frist.weight=1",
            "'losses.frist.weight': unknown loss 'frist'; did you mean 'first'? (known: first, hard)",
        ),
        ({}, "teachers.vit-b.size=96", "'teachers.vit-b.size': unknown teacher 'vit-b'; known: none"),
        (TWO, "losses.hard=1", "'losses.hard' is a table; write 'losses.hard.KEY=value'"),
    ],
)
def test_a_missing_or_ambiguous_entry_is_an_error(recipe, text, sentence):
    with pytest.raises(RecipeError) as caught:
        assigned(recipe, text)
    assert str(caught.value) == sentence


def test_a_long_value_in_place_of_a_list_is_shortened_in_the_remedy():
    with pytest.raises(RecipeError) as caught:
        load_recipe(assignments=[f"about.notes={'x' * 10_000}"])
    assert "it should be a list, such as" in str(caught.value)
    assert len(str(caught.value)) < 1_000
