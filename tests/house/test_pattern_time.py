"""Time of regular expressions and look-ups of names over text of third parties: proportional to its length."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from re import _constants as op
from re import _parser as parser

import pytest

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import unknown_name
from distillkit.recipe.files import load_recipe
from distillkit_export.onnx.session import _kernel

SOURCES = ("distillkit", "cli/distillkit_cli", "export/distillkit_export", "plugins/distillkit_plugins")
FUNCTIONS = {"compile", "match", "search", "fullmatch", "sub", "split", "findall"}
LENGTH, LIMIT_S = 50_000, 5
CATEGORIES = {op.CATEGORY_DIGIT: "0", op.CATEGORY_WORD: "a", op.CATEGORY_SPACE: " ", op.CATEGORY_NOT_SPACE: "a"}


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer; `re` looks for signals while it searches."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def patterns(root):
    """Every regular expression that is written in the sources: file, pattern, and the methods that are called."""
    texts = {path: path.read_text(encoding="utf-8") for source in SOURCES for path in (root / source).rglob("*.py")}
    calls = set(re.findall(r"\b(\w+)\.(search|match|fullmatch|sub|split|findall)\(", "\n".join(texts.values())))
    for path, text in sorted(texts.items()):
        names = {
            node.value: node.targets[0].id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        named = {ast.unparse(value): name for value, name in names.items()}
        for node in ast.walk(ast.parse(text)):
            function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if function.startswith("re.") and function.removeprefix("re.") in FUNCTIONS:
                name = named.get(ast.unparse(node))
                methods = {method for owner, method in calls if owner == name} or {function.removeprefix("re.")}
                pattern = literal(node.args[0])
                if pattern is not None:
                    yield path, pattern, methods


def literal(given):
    """The text of a pattern, with x in place of what is inserted into it; None if it is not written there."""
    if isinstance(given, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "x" for part in given.values)
    if not isinstance(given, ast.Constant):
        return None
    return given.value.decode("latin1") if isinstance(given.value, bytes) else given.value


def witness(parts):
    """A text that matches, or nearly: one character for every set, and every repetition once."""
    text = ""
    for code, value in parts:
        if code is op.LITERAL:
            text += chr(value)
        elif code is op.IN:
            text += member(value)
        elif code in {op.MAX_REPEAT, op.MIN_REPEAT}:
            text += witness(value[2]) * max(value[0], 1)
        elif code is op.SUBPATTERN:
            text += witness(value[-1])
        elif code is op.BRANCH:
            text += witness(value[1][0])
        elif code in {op.ANY, op.NOT_LITERAL}:
            text += "a"
    return text


def member(choices):
    if choices[0][0] is op.NEGATE:
        return "a"
    code, value = choices[0]
    return CATEGORIES[value] if code is op.CATEGORY else chr(value[0] if code is op.RANGE else value)


def attacks(pattern):
    """Long texts that repeat every beginning of a match, and its last character."""
    text = witness(parser.parse(pattern))
    for end in range(1, len(text) + 1):
        yield text[:end] * (LENGTH // end)
        yield text[:end] + text[end - 1] * LENGTH + "\n"


def test_every_pattern_takes_time_in_proportion_to_the_text(root):
    """Promise: reading a file ends, in a time that its size bounds.

    Attempt: a name or a message that makes a regular expression search it from every position to its end.
    """
    found = [(path.relative_to(root).as_posix(), pattern, methods) for path, pattern, methods in patterns(root)]
    assert len(found) > 25
    slow = [(path, pattern) for path, pattern, methods in found if is_slow(pattern, methods)]
    assert slow == []


def is_slow(pattern, methods):
    """Whether a search, or a match if nothing else is used, takes longer than the limit."""
    compiled = re.compile(pattern)
    search = compiled.fullmatch if methods == {"fullmatch"} else compiled.search
    try:
        with limited(LIMIT_S):
            for text in attacks(pattern):
                search(text)
    except TimeoutError:
        return True
    return False


def test_a_slow_pattern_would_be_found():
    assert is_slow(r"(a+)+b", {"search"})


def test_the_message_of_onnx_runtime_is_searched_in_bounded_time():
    """Promise: reading a file ends, in a time that its size bounds.

    Attempt: an ONNX file with a name of 60 MB that looks like ONNX Runtime's message, two million times.
    """
    with limited(LIMIT_S):
        assert len(_kernel(ValueError("Type 'a' of input parameter (" * 2_000_000))) <= 10_000


def test_a_long_unknown_name_is_compared_and_shown_in_part():
    """Promise: reading a file ends, in a time that its size bounds.

    Attempt: a recipe whose student has a name of 4 MB, which is compared with a thousand known ones.
    """
    name = "".join(map(chr, range(0x100, 0x500))) * 2_000
    with limited(LIMIT_S):
        message = unknown_name("student", name, [f"model-{number}" for number in range(1000)])
    assert message.startswith(f"unknown student '{name[:197]}...'")
    assert len(message) < 400


@pytest.mark.parametrize("line", ["a." * 40_000 + "b = 1", "[" + "a." * 40_000 + "b]"])
def test_a_recipe_with_a_key_of_many_parts_is_refused_before_it_is_parsed(tmp_path, line):
    """Promise: Reading a file ends, in a time that its size bounds.

    Attempt: A recipe of 80 kB with one key of 40,000 parts, which takes a minute to parse, and one of 1 MB hours.
    """
    (tmp_path / "recipe.toml").write_text(f"seed = 1\n{line}\n")
    with limited(LIMIT_S), pytest.raises(RecipeError) as refused:
        load_recipe(recipe=str(tmp_path / "recipe.toml"))
    assert str(refused.value) == (
        f"recipe '{tmp_path / 'recipe.toml'}' has a line with more than 256 dots; a recipe is a TOML file"
    )
