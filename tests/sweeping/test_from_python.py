"""`distillkit.sweep` from a script: its options become those of commands."""

import os
import sys
from pathlib import Path

import pytest

import distillkit
from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe
from distillkit.sweeping.python_options import typed_options
from tests import forked

PROGRAM = """
import distillkit

if __name__ == "__main__":
    result = distillkit.sweep(
        "digits",
        "sweeps/a",
        grid={"seed": [0, 1]},
        one_pass=True,
        loss="ce",
        student={"width": 16, "depth": 1, "heads": 2},
        training={"steps": 4, "device": "cpu"},
        **{"data.workers": 0, "schedule.warmup_epochs": 0},
    )
    print([(arm.name, arm.state, arm.directory.as_posix()) for arm in result.arms], result.best)
"""


@pytest.mark.parametrize(
    "options",
    [
        {"loss": ["hard", {"loss": "soft", "tau": 2.0}], "teacher": "regnety16gf"},
        {"training": {"steps": 10, "clip": None}, "labels": 100, "seed": 3},
        {"teacher": {"model": "regnety16gf", "size": "student"}, "loss": "hard"},
        {"augment": {"scale": (0.5, 1.0)}, "data": Path("my data"), "strict_data": True},
        {"smoke": True, "assignments": ["seed=4"], "epochs": 2},
        {"trackers": ["metrics"], "student.drop_path": 0.1},
    ],
    ids=str,
)
def test_typed_options_give_the_same_recipe(options):
    assert load_recipe(**typed_options("digits", options)) == load_recipe("digits", **options)


def test_a_recipe_in_memory_is_refused():
    with pytest.raises(RecipeError) as caught:
        distillkit.sweep(load_recipe("digits"), "out", grid={"seed": [0]})
    assert str(caught.value) == (
        "a sweep starts every arm by a command, so it needs the name or the file of a recipe, not a Recipe"
    )


def test_a_number_of_trials_is_refused_for_a_grid():
    with pytest.raises(RecipeError) as caught:
        distillkit.sweep("digits", "out", grid={"seed": [0]}, trials=3)
    assert str(caught.value) == "trials is for a search; leave it out, or give search instead of grid"


def test_a_script_sweeps(tmp_path):
    (tmp_path / "script.py").write_text(PROGRAM)
    path = os.pathsep.join(filter(None, sys.path))
    done = forked.run([tmp_path / "script.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("[('seed=0', 'done', 'sweeps/a/seed=0'), ('seed=1', 'done', 'sweeps/a/seed=1')] None\n")
