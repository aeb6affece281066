"""The options of a sweep as the words of a command: what every arm gets, and what one arm sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillkit.recipe.named_options import NAME_OF_ENTRY
from distillkit.recipe.overrides import parse_value
from distillkit.sweeping.grid import ArmSettings, dotted

OPTION_NAMES = {"assignments": "--set", "from_run": "--from"}
"""Options of `load_recipe` that the command line names differently."""


def option_name(option: str) -> str:
    """The option of the command line for one of `load_recipe`."""
    return OPTION_NAMES.get(option, f"--{option.replace('_', '-')}")


def option_words(options: Mapping[str, Any]) -> list[str]:
    """The words for options of `load_recipe`; those that are None, False or empty are not given.

    >>> option_words({"recipe": "digits", "smoke": True, "assignments": ["seed=1"], "labels": None})
    ['--recipe', 'digits', '--smoke', '--set', 'seed=1']
    """
    words: list[str] = []
    for option, value in options.items():
        if value is None or value is False or value in ([], ()):
            continue
        name = option_name(option)
        if value is True:
            words.append(name)
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            words += _option(name, str(each))
    return words


def arm_words(settings: ArmSettings) -> list[str]:
    """The words for the keys that an arm sets.

    >>> arm_words({"loss": "soft:tau=2", "epochs": "3", "training.clip": ""})
    ['--loss', 'soft:tau=2', '--set', 'training.epochs=3', '--set', 'training.clip=']
    """
    words: list[str] = []
    for key, text in settings.items():
        if key in NAME_OF_ENTRY:
            words += [word for entry in entries(text) for word in _option(f"--{key}", entry)]
        else:
            words += ["--set", f"{dotted(key)}={text}"]
    return words


def entries(text: str) -> list[str]:
    """The losses that a value of the key `loss` names: one, or a list of several in brackets.

    >>> entries("hard"), entries('["hard", "soft:tau=2"]')
    (['hard'], ['hard', 'soft:tau=2'])
    """
    value = parse_value(text)
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def run_words(options: Mapping[str, Any], settings: ArmSettings, directory: Path) -> list[str]:
    """The words after `distillkit` that start an arm or continue it."""
    return ["run", *option_words(options), *arm_words(settings), *_option("--out", str(directory)), "--auto-resume"]


def _option(name: str, value: str) -> list[str]:
    """An option and its value, as one word where the value could be read as another option."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]
