"""Untrusted run directories, as read by `--resume`, `evaluate`, `--from`, `run:DIR` and `export`."""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit import RunInfo, read_metrics
from distillkit.errors import RunDirectoryError, WeightsError
from distillkit.evaluation.open_model import open_model
from distillkit.models.saved_student import load_saved_student, read_student
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.recipe.stored_paths import edit_remedy, require_stored_paths
from distillkit.running.checkpoint import Checkpoint, write_checkpoint
from distillkit.running.directory import RunDirectory
from distillkit.running.start import run
from distillkit.storage.atomic_directory import recover_directory
from distillkit_export.images.run_images import with_run_settings
from distillkit_export.pipeline.target import load_target
from distillkit_plugins.trackers.metrics_file import MetricsFile

FUZZ = settings.get_profile("fuzz")


def nested(depth: int) -> list:
    """A list in a list in a list."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.integers(0, 9)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["../../x", "timm:resnet18", "small-cnn", "run:.", "\x1b[2J", "\x9b2J\u2028", 10**300, 2**31])
    | st.integers(1, 1_200).map(nested),
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
        file.write_text(as_text(tables))


def as_text(value) -> str:
    """JSON of a value that may be nested more deeply than `json.dumps` can write."""
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 1_200 + "]" * 1_200


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


paths = st.sampled_from(
    [
        "pets",
        "../pets",
        "/nowhere/pets",
        "~unknown-user/x",
        "folder:pets",
        "timm:torch/cifar10",
        "timm:a.tar",
        "run:..",
        ".",
        "",
    ]
) | st.text(max_size=12)
folders = paths | st.sampled_from(["../..", "../" * 3_000, "x" * 5_000, "/proc/self/fd", "\0", "\ud800", "\x1b[2J"])
STORED = {"bank", "data.train", "data.validation", "data.test", "data.unlabeled", "data.root", "student.weights"}


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(data=st.data(), stored=st.dictionaries(st.sampled_from(sorted(STORED)), paths, max_size=3))
def test_moved_runs(attempt, copied, data, stored):
    """started_in.json and the paths in recipe.toml, as `--resume`, `--from`, `evaluate` and `run:DIR` find them."""
    path = copied()
    recipe = tomllib.loads((path / "recipe.toml").read_text())
    for dotted, value in stored.items():
        table, _, key = dotted.rpartition(".")
        (recipe.setdefault(table, {}) if table else recipe)[key] = value
    (path / "recipe.toml").write_text(tomli_w.dumps(recipe))
    record = data.draw(
        st.fixed_dictionaries({"relative": folders, "absolute": folders}).map(json.dumps)
        | st.dictionaries(st.sampled_from(["relative", "absolute", "more"]), json_values).map(json.dumps)
        | awkward_texts
    )
    (path / "started_in.json").write_text(record)
    if data.draw(st.booleans()):
        moved = path.with_name("moved")
        shutil.rmtree(moved, ignore_errors=True)
        path = path.rename(moved)
    kind = "run directory, moved, with started_in.json and paths made up"
    read = attempt(kind, lambda: RunDirectory(path).read_recipe())
    attempt(kind, lambda: load_recipe(from_run=path, data="digits"))
    if read is not None:
        attempt(kind, lambda: require_stored_paths(read, path, edit_remedy(path)))


@settings(FUZZ, max_examples=FUZZ.max_examples)
@given(data=st.data())
def test_metrics(attempt, copied, data):
    """An invalid line of metrics.jsonl is dropped, and the run continues without it."""
    path = copied() / "metrics.jsonl"
    content = bytearray(path.read_bytes() * 2)
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    lines = data.draw(st.lists(json_values.map(as_text) | awkward_texts, max_size=3))
    path.write_bytes(bytes(content) + "\n".join(lines).encode())

    resumed = RunInfo(path.parent, {}, {}, steps=2, steps_per_epoch=2, start_step=2)

    def cut_back():
        MetricsFile().distillkit_run_started(resumed)
        return read_metrics(path.parent)

    kept = attempt("run directory, metrics.jsonl", cut_back)
    assert kept is not None
    assert all(record["kind"] in {"steps", "epoch", "note"} for record in kept)


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(data=st.data())
def test_links_in_place_of_folders(attempt, copied, tmp_path, data):
    """Whatever the links of a run directory lead to is neither changed nor deleted by resuming it."""
    path, outside = copied(), tmp_path / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    (outside / "step-00000001").mkdir(parents=True)
    (outside / "step-00000001" / "manifest.json").write_text("{}")
    (outside / ".best.01234567.old").mkdir()
    before = sorted(each.relative_to(outside) for each in outside.rglob("*"))
    (path / "result.json").unlink()
    folders = ["best", "ema", "checkpoints", "incidents", "attention", ".best.01234567.old", ".best.01234567.new"]
    names = [*folders, "checkpoints/step-00000001", ".lock", "metrics.jsonl", "metrics.tmp", ".plan.json.tmp"]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        target = data.draw(st.sampled_from([outside, outside / "step-00000001", outside / "nothing", path / name]))
        link = path / name
        if link.parent.is_symlink() or link.is_dir():  # another link is there, or a folder with one
            continue
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def written_to():
        directory = RunDirectory(path)
        directory.check_writable()
        with directory.locked():
            recover_directory(directory.best)
            MetricsFile().distillkit_run_started(RunInfo(path, {}, {}, steps=2, steps_per_epoch=2, start_step=2))
            write_checkpoint(directory.checkpoints, Checkpoint(2, {"task": {"a": torch.ones(1)}}, {}), keep=1)

    attempt("run directory, links in place of files and folders", written_to)
    assert sorted(each.relative_to(outside) for each in outside.rglob("*")) == before


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
    [("options", "width", 2**24), ("spec", "classes", 10**9)],
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


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("depth", 10**6, "'depth' is 1000000; it should be less than or equal to 1000"),
        ("image_size", 40_000, "'image_size': 40000 is too large; give at most 4,096 pixels per side"),
    ],
)
def test_a_network_beyond_its_plugins_limits_is_refused(copied, option, value, message):
    path = copied()
    fields = json.loads((path / "student.json").read_text())
    fields["options"][option] = value
    (path / "student.json").write_text(json.dumps(fields))
    with pytest.raises(RunDirectoryError) as caught:
        load_saved_student(path, installed_plugins())
    assert str(caught.value) == (
        f"{path / 'student.json'}: student 'deit-ti': {message}; restore it or run the training again"
    )
