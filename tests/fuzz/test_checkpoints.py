"""Truncated, altered or made-up checkpoints: the state as it was written, or a one-line error."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.errors import CheckpointError
from distillkit.planning.make_plan import make_plan
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.checkpoint import (
    FORMAT,
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from distillkit.running.session import build_session

FUZZ = settings.get_profile("fuzz")
FILES = ["manifest.json", "state.json", "task.safetensors", "optimizer.safetensors"]
PROGRESS = {
    "best": {"top1": 50.0, "step": 1.0},
    "figures": {},
    "incidents": {"broken": [], "skipped": []},
    "skipped_in_a_row": 0,
    "interval": [],
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["../../x", "/etc/passwd", "task.safetensors", "\0", "\x1b[2J", 10**400, [[[[[]]]]]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
awkward_texts = st.sampled_from(
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5_000,
        "NaN",
        f'{{"format": {FORMAT}, "format": {FORMAT}, "files": {{}}}}',
        f'{{"format": {FORMAT}, "files": {{}}}}',
        '{"step": 1e999, "state": {}}',
        "\ufeff{}",
        '"\\ud800"',
    ]
)


@pytest.fixture(scope="module")
def session():
    """A student of one block on digits, ready to train, into which checkpoints are restored."""
    tables = {
        "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        "data": {"train": "digits", "workers": 0},
        "training": {"steps": 2, "batch_size": 32, "device": "cpu", "ema": 0.9},
    }
    plugins = installed_plugins()
    built = build_session(make_plan(Recipe.model_validate(tables), plugins))
    for window in built.data.windows(0, 1):
        built.stepper.step(window)
        break
    return built


@pytest.fixture(scope="module")
def whole(session, tmp_path_factory) -> Path:
    """A real checkpoint, with the optimiser state after a step."""
    return write_checkpoint(tmp_path_factory.mktemp("whole"), session.checkpoint(1, PROGRESS), keep=2)


@pytest.fixture
def copied(whole, tmp_path):
    """`copied()`: a copy of the checkpoint to corrupt."""

    def copy() -> Path:
        there = tmp_path / whole.name
        shutil.rmtree(there, ignore_errors=True)
        return Path(shutil.copytree(whole, there))

    return copy


def sealed(path: Path) -> None:
    """Update the manifest to match the files, as an attacker would."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in path.iterdir()
        if file.name != "manifest.json"
    }
    (path / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": files}))


def places(value, path=()):
    """The path to every value inside plain data."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def replaced(draw, value, *, by):
    """Plain data with a random value replaced, removed or renamed."""
    *path, last = draw(st.sampled_from([place for place in places(value) if place] or [("",)]))
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path:
        inner = inner[key]
    what = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
    taken = inner[last] if what == "rename" else None
    if what == "replace":
        inner[last] = draw(by)
    elif isinstance(inner, dict):
        del inner[last]
        if what == "rename":
            inner[draw(st.text(max_size=8) | st.sampled_from(["../x", "/x", ".", "a/b.safetensors"]))] = taken
    else:
        inner.append(draw(by))
    return copy


def corrupted(draw, content: bytes) -> bytes:
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    how = draw(st.sampled_from(["flip", "cut", "insert", "grow", "other"]))
    if how == "flip" and content:
        return content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    if how == "cut":
        return content[:place]
    if how == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
    return content + b"\0" * 100 if how == "grow" else draw(st.binary(max_size=50))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(name=st.sampled_from(FILES), data=st.data())
def test_corrupted_bytes(attempt, copied, whole, name, data):
    path = copied()
    (path / name).write_bytes(corrupted(data.draw, (path / name).read_bytes()))
    back = attempt("checkpoint, a file corrupted", lambda: read_checkpoint(path))
    if back is not None:  # for example white space in the manifest
        assert back.state == read_checkpoint(whole).state


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(data=st.data(), text=st.none() | awkward_texts)
def test_manifests(attempt, copied, data, text):
    path = copied()
    file = path / "manifest.json"
    if text is None:
        text = json.dumps(replaced(data.draw, json.loads(file.read_text()), by=json_values))
    file.write_text(text)
    attempt("checkpoint, manifest made up", lambda: read_checkpoint(path))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(data=st.data(), text=st.none() | st.none() | awkward_texts)
def test_states_with_matching_digests(attempt, copied, session, data, text):
    path = copied()
    file = path / "state.json"
    if text is None:
        text = json.dumps(replaced(data.draw, json.loads(file.read_text()), by=json_values))
    file.write_text(text)
    sealed(path)
    attempt("checkpoint, state made up, digests matching", lambda: session.restore(read_checkpoint(path)))


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(name=st.sampled_from(["task.safetensors", "optimizer.safetensors", "ema.safetensors"]), data=st.data())
def test_parts_with_matching_digests(attempt, copied, session, name, data):
    path = copied()
    content = (path / name).read_bytes()
    length = int.from_bytes(content[:8], "little")
    if data.draw(st.booleans()):
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(replaced(data.draw, header, by=json_values)).encode()
        content = len(text).to_bytes(8, "little") + text + content[8 + length :]
    else:
        content = corrupted(data.draw, content[: 8 + length]) + content[8 + length :]
    (path / name).write_bytes(content)
    sealed(path)
    attempt("checkpoint, tensors made up, digests matching", lambda: session.restore(read_checkpoint(path)))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def written(directory: Path, step: int, *, keep: int = 9) -> Path:
    return write_checkpoint(directory, Checkpoint(step, {"task": {"a": torch.ones(3)}}, {"n": step}), keep=keep)


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/passwd", "a/b.safetensors", "state.JSON", "manifest.json", ""]
)
def test_a_manifest_names_files_of_its_folder_alone(tmp_path, name):
    path = written(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(path) == f"checkpoint {path} lists {name!r}, which is not a checkpoint file"


def test_a_manifest_lists_the_state(tmp_path):
    path = written(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["state.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(path) == f"checkpoint {path} is damaged: its manifest.json does not list state.json"


def test_files_that_the_manifest_does_not_list_are_not_read(tmp_path):
    path = written(tmp_path, 1)
    (path / "optimizer.safetensors").write_bytes(b"third-party")
    os.mkfifo(path / "ema.safetensors")
    assert set(read_checkpoint(path).parts) == {"task"}


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "task.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused(attempt, tmp_path, name):
    path = written(tmp_path, 1)
    sealed(path)
    manifest = json.loads((path / "manifest.json").read_text())
    if name != "manifest.json":
        manifest["files"][name]["bytes"] = 0
        (path / "manifest.json").write_text(json.dumps(manifest))
    (path / name).unlink()
    os.mkfifo(path / name)
    assert attempt("checkpoint, a pipe in place of a file", lambda: read_checkpoint(path)) is None
    assert refusal(path) == f"checkpoint {path} is damaged: {name} is a pipe, not a file"


def test_a_link_that_leads_to_itself_is_refused(attempt, tmp_path):
    path = written(tmp_path, 1)
    (path / "state.json").unlink()
    (path / "state.json").symlink_to(path / "state.json")
    assert attempt("checkpoint, a link that leads to itself", lambda: read_checkpoint(path)) is None


def test_a_checkpoint_that_was_renamed_is_refused(tmp_path):
    path = written(tmp_path, 1).rename(tmp_path / "step-00000009")
    assert (
        refusal(path) == f"checkpoint {path} is damaged: it holds step 1, which is not the step in its name; rename it"
    )


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    path = written(tmp_path, 1)
    (path / "manifest.json").write_text("[" * 100_000)
    assert refusal(path) == f"checkpoint {path} is damaged: manifest.json is nested too deeply"


def test_a_damaged_newest_checkpoint_does_not_displace_the_valid_ones(tmp_path):
    """The newest is damaged and the run continues from the previous one; that one, then the next, must be kept."""
    written(tmp_path, 1, keep=1)
    damaged = written(tmp_path, 3, keep=9)
    (damaged / "task.safetensors").write_bytes(b"damaged")
    written(tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    checkpoint, damage = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, damage) == (2, ())


def test_leftovers_of_a_killed_process_are_deleted_with_the_next_checkpoint(tmp_path):
    """Killed while writing, while replacing and while deleting a checkpoint."""
    written(tmp_path, 1)
    for name in (".step-00000002.tmp", ".step-00000001.old", "step-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    assert newest_checkpoint(tmp_path)[1] == ()
    written(tmp_path, 3, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000001", "step-00000003"]


def test_an_interrupted_deletion_leaves_no_checkpoint(tmp_path, monkeypatch):
    first = written(tmp_path, 1)

    usual = shutil.rmtree

    def killed(path, **options):
        if path == first:
            raise KeyboardInterrupt
        usual(path, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, 2, keep=1)
    assert not (first / "manifest.json").exists()
    monkeypatch.undo()
    checkpoint, damage = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, damage) == (2, ())


def test_checkpoints_are_ordered_by_step_number(tmp_path):
    for step in (99_999_999, 100_000_000):
        written(tmp_path, step)
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 100_000_000
