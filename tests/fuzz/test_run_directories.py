"""Untrusted run directories, as read by `--resume`, `evaluate`, `--from`, `run:DIR` and `export`."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit import read_metrics
from distillkit.errors import RecipeError, RunDirectoryError, WeightsError
from distillkit.evaluation.open_model import open_model
from distillkit.models.saved_student import load_saved_student, read_student
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit.running.start import run
from distillkit_export.images.run_images import with_run_settings
from distillkit_export.pipeline.target import load_target
from distillkit_plugins.trackers.metrics_file import MetricsFile

FUZZ = settings.get_profile("fuzz")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.integers(0, 9)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["../../x", "timm:resnet18", "small-cnn", "run:.", "\x1b[2J", 10**300, 2**31]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
awkward_texts = st.sampled_from(["", "null", "[]", "3", "{", "[" * 100_000, '{"a":1,"a":2}', "9" * 5_000, "\0"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A real finished run of two steps on digits."""
    tables = {
        "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        "data": {"train": "digits", "workers": 0},
        "training": {"steps": 2, "batch_size": 32, "device": "cpu"},
        "trackers": ["metrics"],
    }
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(Recipe.model_validate(tables), out, installed_plugins())
    return out


@pytest.fixture
def copied(finished, tmp_path):
    def copy() -> Path:
        there = tmp_path / "run"
        shutil.rmtree(there, ignore_errors=True)
        return Path(shutil.copytree(finished, there, ignore=shutil.ignore_patterns("checkpoints", "best")))

    return copy


def places(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def mutated(draw, file: Path) -> None:
    """Replace a random value, the whole text, or random bytes of a JSON file."""
    how = draw(st.sampled_from(["value", "value", "value", "text", "bytes"]))
    if how == "text":
        file.write_text(draw(awkward_texts))
    elif how == "bytes":
        content = bytearray(file.read_bytes())
        for _ in range(draw(st.integers(1, 3))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        file.write_bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])
    else:
        tables = json.loads(file.read_text())
        *path, last = draw(st.sampled_from([place for place in places(tables) if place]))
        inner = tables
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict) and draw(st.integers(0, 4)) == 0:
            del inner[last]
        else:
            inner[last] = draw(json_values)
        file.write_text(json.dumps(tables))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(data=st.data())
def test_descriptions_of_students(attempt, copied, data):
    """student.json, as `evaluate DIR`, `--teacher run:DIR`, `--student-weights DIR` and `export DIR` open it."""
    path = copied()
    mutated(data.draw, path / "student.json")
    opened = data.draw(
        st.sampled_from([load_saved_student, lambda path, plugins: open_model(str(path), plugins, None)])
    )
    attempt("run directory, student.json", lambda: opened(path, installed_plugins()))


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(data=st.data())
def test_plans(attempt, copied, finished, data):
    path = copied()
    mutated(data.draw, path / "plan.json")
    spec = read_student(finished).spec

    def read():
        return with_run_settings(spec, RunDirectory(path)), RunDirectory(path).read_plan()["notes"][:0]

    attempt("run directory, plan.json", read)


@settings(FUZZ, max_examples=FUZZ.max_examples)
@given(data=st.data())
def test_results(attempt, copied, data):
    path = copied()
    mutated(data.draw, path / "result.json")
    attempt("run directory, result.json", lambda: RunDirectory(path).read_result()["figures"].get("test/top1"))


@settings(FUZZ, max_examples=FUZZ.max_examples)
@given(data=st.data())
def test_runs_to_start_from(attempt, copied, data):
    """recipe.toml and student.json, as `--from DIR` reads them."""
    path = copied()
    recipe = path / "recipe.toml"
    content = bytearray(recipe.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    recipe.write_bytes(content)
    attempt("run directory, recipe.toml with --from", lambda: load_recipe(from_run=path))


@settings(FUZZ, max_examples=FUZZ.max_examples)
@given(data=st.data())
def test_metrics(attempt, copied, data):
    """An invalid line of metrics.jsonl is dropped, and the run continues without it."""
    path = copied() / "metrics.jsonl"
    content = bytearray(path.read_bytes() * 2)
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    lines = data.draw(st.lists(json_values.map(json.dumps) | awkward_texts, max_size=3))
    path.write_bytes(bytes(content) + "\n".join(lines).encode())

    class Resumed:
        directory = path.parent
        start_step = 2

    def cut_back():
        MetricsFile().distillkit_run_started(Resumed)
        return read_metrics(path.parent)

    kept = attempt("run directory, metrics.jsonl", cut_back)
    assert kept is not None
    assert all(record["kind"] in {"steps", "epoch", "note"} for record in kept)


@pytest.mark.parametrize("name", ["recipe.toml", "plan.json", "result.json", "student.json", "student.safetensors"])
@pytest.mark.parametrize("what", ["a pipe", "a folder", "a loop", "10 GB", "gone"])
def test_something_else_in_place_of_a_file(attempt, copied, name, what):
    path = copied()
    (path / name).unlink()
    match what:
        case "a pipe":
            os.mkfifo(path / name)
        case "a folder":
            (path / name).mkdir()
        case "a loop":
            (path / name).symlink_to(path / name)
        case "10 GB":
            (path / name).touch()
            os.truncate(path / name, 10 * 10**9)
    plugins = installed_plugins()
    directory = RunDirectory(path)
    readers = {
        "recipe.toml": directory.read_recipe,
        "plan.json": directory.read_plan,
        "result.json": directory.read_result,
        "student.json": lambda: load_saved_student(path, plugins),
        "student.safetensors": lambda: load_saved_student(path, plugins),
    }
    kind = "run directory, something else in place of a file"
    assert attempt(kind, readers[name]) is None
    attempt(kind, lambda: load_recipe(from_run=path))
    attempt(kind, lambda: load_target(str(path), plugins))


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("result.json", "[]", RunDirectory.read_result),
        ("result.json", '{"figures": {"test/top1": "high"}}', RunDirectory.read_result),
        ("result.json", '{"figures": {}, "figures": {}}', RunDirectory.read_result),
        ("plan.json", "{}", RunDirectory.read_plan),
        ("plan.json", "[" * 100_000, RunDirectory.read_plan),
    ],
)
def test_files_with_unexpected_content_are_refused(copied, name, content, read):
    path = copied()
    (path / name).write_text(content)
    with pytest.raises(RunDirectoryError) as caught:
        read(RunDirectory(path))
    assert str(caught.value) == f"{path / name} is missing or damaged; restore it or run the training again"


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("options", "width", 2**24), ("options", "image_size", 40_000), ("spec", "classes", 10**9)],
)
def test_a_student_json_for_a_larger_network_than_the_weights(attempt, copied, table, key, value):
    """Refused before memory is allocated for it."""
    path = copied()
    fields = json.loads((path / "student.json").read_text())
    fields[table][key] = value
    (path / "student.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError) as caught:
        load_saved_student(path, installed_plugins())
    assert re.fullmatch(
        rf"{path}/student.safetensors has [\d,]+ weights and the student in its student.json has "
        r"[\d,]+ parameters; run the training again or restore both files",
        str(caught.value),
    )


def test_a_network_of_a_million_blocks_is_refused(copied):
    path = copied()
    fields = json.loads((path / "student.json").read_text())
    fields["options"]["depth"] = 10**6
    (path / "student.json").write_text(json.dumps(fields))
    with pytest.raises(RecipeError) as caught:
        load_saved_student(path, installed_plugins())
    assert str(caught.value) == "student 'deit-ti': 'depth' is 1000000; it should be less than or equal to 1000"
