"""The error of an arm, found in its log."""

import pytest

from distillkit.sweeping.arm_process import error_in
from distillkit.sweeping.command_words import arm_words, entries, option_words, run_words


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ""),
        ("student a\nerror: no\n", "no"),
        ("error: first\nnote\nerror: last\n\n", "last"),
        ("error: 2 problems\n  one\n  two\nnote\n", "2 problems; one; two"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'x'\n", "KeyError: 'x'"),
        (f"error: {'x' * 600}", "x" * 497 + "..."),
    ],
)
def test_the_last_error_is_one_line(text, error):
    assert error_in(text) == error


def test_options_are_words_of_the_command_line():
    options = {
        "recipe": "digits",
        "from_run": None,
        "loss": ["hard", "soft:tau=2"],
        "strict_data": True,
        "smoke": False,
        "labels": 100,
        "validation": 0.2,
        "seed": 0,
        "student_weights": "-odd",
        "assignments": ("training.clip=1.0",),
    }
    assert option_words(options) == [
        *("--recipe", "digits", "--loss", "hard", "--loss", "soft:tau=2", "--strict-data", "--labels", "100"),
        *("--validation", "0.2", "--seed", "0", "--student-weights=-odd", "--set", "training.clip=1.0"),
    ]


def test_an_arm_is_a_command_of_its_own(tmp_path):
    settings = {"loss": '["hard", "ce"]', "teacher": "run:a", "epochs": "3", "seed": "", "loss.weight": "0.5"}
    assert arm_words(settings) == [
        *("--loss", "hard", "--loss", "ce", "--teacher", "run:a"),
        *("--set", "training.epochs=3", "--set", "seed=", "--set", "loss.weight=0.5"),
    ]
    words = run_words({"recipe": "digits"}, {"seed": "1"}, tmp_path)
    assert words == ["run", "--recipe", "digits", "--set", "seed=1", "--out", str(tmp_path), "--auto-resume"]


def test_a_loss_may_be_a_list():
    assert entries("soft:tau=2,weight=0.5") == ["soft:tau=2,weight=0.5"]
