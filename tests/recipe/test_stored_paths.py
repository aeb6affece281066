"""Which values of a recipe are paths, and from where they are read."""

from __future__ import annotations

import json

import pytest

from distillkit.recipe.schema import Recipe
from distillkit.recipe.stored_paths import find_stored_paths, inherited, write_started_in


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """The tables of a recipe after it was read in `elsewhere`; the run was started in `home`, which has all names."""

    def read(tables, names):
        home, run = tmp_path / "home", tmp_path / "home/runs/one"
        run.mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        for name in names:
            (home / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(home)
        write_started_in(run)
        monkeypatch.chdir(tmp_path / "elsewhere")
        find_stored_paths(tables, run)
        return tables

    return read


def test_every_key_with_a_path(moved):
    names = ["a", "b", "c", "d", "e", "f.tar", "w.pth", "v.safetensors", "names.txt", "t", "bank"]
    tables = moved(
        {
            "bank": "bank",
            "data": {"train": "a", "validation": "folder:b", "test": "timm:f.tar", "unlabeled": "c/../d", "root": "e"},
            "student": {"model": "deit-ti", "weights": "w.pth"},
            "teachers": [
                {"name": "one", "model": "run:t"},
                {"name": "two", "model": "timm:t", "weights": "v.safetensors", "classes": "names.txt"},
            ],
        },
        names,
    )
    assert tables["bank"] == "../home/bank"
    assert tables["data"] == {
        "train": "../home/a",
        "validation": "folder:../home/b",
        "test": "timm:../home/f.tar",
        "unlabeled": "../home/d",
        "root": "../home/e",
    }
    assert tables["student"]["weights"] == "../home/w.pth"
    assert tables["teachers"] == [
        {"name": "one", "model": "run:../home/t"},
        {"name": "two", "model": "timm:t", "weights": "../home/v.safetensors", "classes": "../home/names.txt"},
    ]


def test_names_numbers_and_absolute_paths_stay(moved, tmp_path):
    kept = {
        "data": {"train": "digits", "validation": 0.1, "test": "timm:torch/cifar10", "unlabeled": str(tmp_path / "x")},
        "student": {"weights": "pretrained"},
        "teachers": [{"model": "regnety16gf", "weights": "bank", "classes": "missing.txt"}],
    }
    assert moved(json.loads(json.dumps(kept)), ["digits", "torch/cifar10", "pretrained", "bank", "regnety16gf"]) == kept


@pytest.mark.parametrize("tables", [{}, {"data": 1, "teachers": "x", "student": []}, {"teachers": [1, {"weights": 2}]}])
def test_tables_of_a_wrong_type_are_left_to_the_validation(moved, tables):
    assert moved(dict(tables), []) == tables


def test_only_what_is_still_the_parents_is_inherited():
    parent = Recipe.model_validate({"data": {"train": "a", "test": "b"}, "teachers": [{"model": "run:t"}]})
    child = Recipe.model_validate({"data": {"train": "c", "test": "b"}, "teachers": [{"model": "run:t"}]})
    assert inherited(child, parent) == {"data.test", "teacher.model"}
