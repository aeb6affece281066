"""Commands in messages quote what comes from outside, so that they can be pasted into a shell."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from distillkit.errors import DataError, RunDirectoryError
from distillkit.messages.text import command
from distillkit.recipe.from_run import find_parent_run
from distillkit.running.directory import RunDirectory
from distillkit.running.system_faults import system_fault

SOURCES = ("distillkit", "cli/distillkit_cli", "export/distillkit_export", "plugins/distillkit_plugins")
VERBS = "run|plan|finetune|evaluate|attention|export|verify|profile|bench|predict|replay|data"
BEFORE_A_VALUE = re.compile(rf"(\bdistillkit ({VERBS})( [\w.:=-]+)*|--resume) $")
QUOTED = {"command", "quote", "resumed", "shlex"}


def unquoted(tree):
    """Lines of f-strings that put a value into a command and do not quote it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for text, value in zip(node.values, node.values[1:], strict=False):
                in_command = isinstance(text, ast.Constant) and BEFORE_A_VALUE.search(str(text.value))
                if in_command and isinstance(value, ast.FormattedValue):
                    names = {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}
                    if not names & QUOTED:
                        yield node.lineno


def test_every_value_in_a_command_is_quoted(root):
    found = [
        f"{path.relative_to(root)}:{line}"
        for source in SOURCES
        for path in sorted((root / source).rglob("*.py"))
        for line in unquoted(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize("text", ["f'to continue: distillkit run --resume {path}'", "f'continue with --resume {path}'"])
def test_an_unquoted_value_would_be_found(text):
    assert list(unquoted(ast.parse(text))) == [1]


@pytest.fixture
def unfinished(tmp_path):
    """A run that is not finished, in a folder whose name is a command."""
    folder = tmp_path / "a run; touch ran"
    folder.mkdir()
    (folder / "recipe.toml").write_text("")
    return folder


def test_commands_that_continue_a_run_name_its_folder_as_one_word(unfinished):
    """Promise: commands that are shown are made by distillkit, and a shell runs nothing else.

    Attempt: a run in a folder whose name contains a second command.
    """
    with pytest.raises(RunDirectoryError) as parent:
        find_parent_run(unfinished)
    with pytest.raises(RunDirectoryError) as taken:
        RunDirectory(unfinished).check_free()
    lost = system_fault(EOFError(), unfinished)
    quoted = f"--resume {shlex.quote(str(unfinished))}"
    assert str(parent.value) == f"the run {unfinished} is not finished; continue it with {quoted}"
    assert str(taken.value) == f"{unfinished} exists and is not empty; continue it with {quoted} or give another --out"
    assert str(lost).endswith(f"continue with {quoted}, or use fewer workers: {quoted} --set data.workers=N")
    assert shlex.split(quoted) == ["--resume", str(unfinished)]


def test_a_relative_path_is_not_taken_for_an_option():
    assert command("distillkit", "verify", Path("--help")) == "distillkit verify ./--help"
    assert str(DataError(command("a", "b\x1b[2J"))) == r"a 'b\x1b[2J'"
