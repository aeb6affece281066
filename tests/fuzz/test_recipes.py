"""Recipe files and assignments with any content: a recipe, or a one-line error."""

import os
import socket
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.errors import RecipeError
from distillkit.messages.validation import _tree, known_keys
from distillkit.recipe.files import dump, load_recipe
from distillkit.recipe.schema import LossEntry, Recipe, StudentEntry, TeacherEntry

FUZZ = settings.get_profile("fuzz")

KEYS = [".".join(map(str, path)) for path in _tree(Recipe)]
ENTRY_KEYS = [*known_keys(StudentEntry), *known_keys(TeacherEntry), *known_keys(LossEntry), "patch", "tau"]
numbers = (
    st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.sampled_from([0, -1, 2**63 - 1, 2**63, 10**400, 0.0, -0.0, 1e308, 5e-324])
)
texts = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "\x1b[2J\x1b[H", "a\nb", "\u202egnp.exe", "\ufeff", "digits", "folder:", "run:", "../" * 50, "x" * 5_000]
)
plain = st.booleans() | numbers | texts | st.dates() | st.datetimes()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
keys = st.sampled_from([*KEYS, "base", "smoke", "smoke.training.steps"]) | texts
entries = st.lists(st.dictionaries(st.sampled_from(ENTRY_KEYS) | texts, values, max_size=4), max_size=3)
flat = st.dictionaries(keys, values, max_size=5)


def nested(flat, more):
    tables = {}
    for key, value in (flat | more).items():
        *path, last = key.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                break
        else:
            table[last] = value
    return tables


def mutated(draw, content: bytes) -> bytes:
    """Truncated, duplicated in part, or with random bytes inserted."""
    place = draw(st.integers(0, len(content)))
    end = draw(st.integers(place, len(content)))
    piece = draw(
        st.binary(max_size=8) | st.sampled_from([b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 2_000, b"a." * 999])
    )
    return draw(
        st.sampled_from(
            [content, content[:place], content[:place] + piece + content[end:], content + content[place:end]]
        )
    )


def loads_again(recipe: Recipe, path: Path) -> None:
    """An accepted recipe is dumped to a file that loads to an equal one."""
    path.write_text(dump(recipe), encoding="utf-8")
    assert dump(load_recipe(str(path))) == dump(recipe)


@settings(FUZZ)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_random_files(attempt, tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    attempt("recipe file, random bytes and text", lambda: load_recipe(str(path)))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(flat=flat, teachers=entries, losses=entries, data=st.data())
def test_structured_files(attempt, tmp_path, flat, teachers, losses, data):
    more = {name: entry for name, entry in (("teachers", teachers), ("losses", losses)) if entry}
    path = tmp_path / "recipe.toml"
    text = tomli_w.dumps(nested(flat, more))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    path.write_bytes(text.encode(encoding, errors="replace"))
    recipe = attempt("recipe file, keys with values of any type", lambda: load_recipe(str(path)))
    if recipe is not None:
        loads_again(recipe, path)


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(
    name=st.sampled_from(sorted(path.stem for path in Path(load_recipe.__globals__["FOLDER"]).glob("*.toml"))),
    data=st.data(),
)
def test_mutated_files(attempt, tmp_path, name, data):
    path = tmp_path / "recipe.toml"
    path.write_bytes(mutated(data.draw, (load_recipe.__globals__["FOLDER"] / f"{name}.toml").read_bytes()))
    recipe = attempt("recipe file, mutated", lambda: load_recipe(str(path)))
    if recipe is not None:
        loads_again(recipe, path)


typed_values = (
    texts | values.map(lambda value: tomli_w.dumps({"v": value}).removeprefix("v = ").strip()) | numbers.map(str)
)
typed = st.builds("{}={}".format, keys | st.sampled_from([f"teacher.{key}" for key in ENTRY_KEYS]), typed_values)
raw = st.text(st.characters(), max_size=30)  # with lone surrogates, which a command line can contain


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(assignments=st.lists(typed | raw, min_size=1, max_size=3))
def test_assignments(attempt, tmp_path, assignments):
    recipe = attempt("--set KEY=VALUE", lambda: load_recipe("deit-ti", assignments=assignments))
    if recipe is not None:
        loads_again(recipe, tmp_path / "recipe.toml")


AWKWARD = {
    "tables in tables": "a." * 5_000 + "a = 1",
    "lists in lists": "seed = " + "[" * 5_000,
    "closed lists in lists": "seed = " + "[" * 400 + "]" * 400,
    "inline tables in tables": "a = " + "{ a = " * 3_000,
    "table headers": "[" + "a." * 5_000 + "b]",
    "a number of 5,000 digits": "seed = " + "9" * 5_000,
    "a hexadecimal number of 50,000 digits": "seed = 0x" + "f" * 50_000,
    "10 MB of one text": 'seed = "' + "x" * 10_000_000 + '"',
    "10 MB of comments": "# comment\n" * 1_000_000,
    "100,000 unknown keys": "".join(f"unknown{number} = 1\n" for number in range(50_000)),
    "1,000 losses": "[[losses]]\nloss = 'soft'\n" * 1_000,
    "a key of 500 kB": "x" * 500_000 + " = 1",
    "a NUL": 'data.train = "\\u0000"',
    "a date": "seed = 1979-05-27T07:32:00Z",
    "an impossible date": "seed = 1979-13-77",
    "its own base": "base = './recipe.toml'",
    "a base that is a number": "base = 1",
    "a base with a long name": f"base = './{'x' * 5_000}.toml'",
    "a base with a NUL": 'base = "./a\\u0000.toml"',
    "infinite": "optimizer.lr = inf",
    "not a number": "augment.color_jitter = nan",
}


@pytest.mark.parametrize("content", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_files(attempt, tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_text(content, encoding="utf-8")
    assert attempt("recipe file, made by hand", lambda: load_recipe(str(path))) is None


@pytest.mark.parametrize("text", ["a." * 5_000 + "a=1", "seed=" + "[" * 5_000, "=", "", ".=1", "seed=" + "9" * 9_000])
def test_awkward_assignments(attempt, text):
    assert attempt("--set KEY=VALUE", lambda: load_recipe(assignments=[text])) is None


def refusal(path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    return str(caught.value)


def test_a_pipe_a_socket_and_a_device_are_refused(attempt, tmp_path):
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    assert refusal(pipe) == f"recipe '{pipe}' is a pipe, not a file; a recipe is a TOML file"
    assert refusal("/dev/zero") == "recipe '/dev/zero' is a device, not a file; a recipe is a TOML file"
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(tmp_path)
        one.bind("s.toml")
        assert refusal("s.toml") == "recipe 's.toml' is a socket, not a file; a recipe is a TOML file"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.touch()
    os.truncate(path, 10**12)
    assert refusal(path) == (
        f"recipe '{path}' has 1,000,000,000,000 bytes, more than the limit of 1,048,576; a recipe is a TOML file"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a." * 40 + "a = 1", "is nested more than 32 levels deep"),
        ("seed = " + "[" * 5_000, "is nested too deeply"),
        ('data.train = "a\\u0000"', "contains a NUL or a character that is not valid UTF-8"),
        ("seed = 9223372036854775808", "contains an integer of more than 64 bits"),
    ],
)
def test_unsupported_values(tmp_path, content, sentence):
    path = tmp_path / "recipe.toml"
    path.write_text(content, encoding="utf-8")
    assert refusal(path) == f"recipe '{path}' {sentence}"


def test_an_unknown_key_may_have_the_name_of_a_type(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("int = 1")
    assert refusal(path).startswith(f"recipe '{path}': unknown key 'int'; ")


def test_a_long_chain_of_bases_ends(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.toml").write_text(f"base = './{number + 1}.toml'")
    assert refusal(tmp_path / "0.toml") == "recipe '0.toml' has a chain of more than 16 bases; merge some of the files"


def test_only_the_first_of_many_problems_are_listed(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("".join(f"unknown{number} = 1\n" for number in range(1_000)))
    first, *listed = refusal(path).split("\n")
    assert first == f"recipe '{path}': 1,000 problems"
    assert len(listed) == 21
    assert listed[-1] == "  and 980 more"


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3")
    assert load_recipe(str(path)).seed == 3
