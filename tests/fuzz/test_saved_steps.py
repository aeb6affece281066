"""Truncated, altered or made-up steps saved for `distillkit replay`."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.running.checkpoint import MANIFEST, STATE, Checkpoint, write_checkpoint
from distillkit.running.saved_step import read_saved_step

FUZZ = settings.get_profile("fuzz")
INCIDENT = {
    "epoch": 1,
    "reason": "the loss is nan",
    "terms": ["hard"],
    "in_a_row": 20,
    "samples": 2,
    "labelled": 2,
    "precision": "float32",
    "environment": {},
    "micro_batches": [[{"keys": ["a", "b"], "indices": [0, None], "terms": {"hard": "nan"}}]],
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=9) | st.just("../../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A saved step as a run of one process writes it."""
    directory = tmp_path_factory.mktemp("steps")
    tensors = {"0.images": torch.zeros(2, 3, 4, 4), "0.label_mass": torch.ones(2), "0.labels": torch.ones(2, 5)}
    parts = {"task": {"a": torch.ones(2)}, "rank-0000": tensors}
    path = write_checkpoint(directory, Checkpoint(3, parts, {"scaler": {}, "incident": INCIDENT}), keep=1)
    read_saved_step(path)
    return path


def seal(path):
    """Update the manifest to match the made-up state."""
    manifest = json.loads((path / MANIFEST).read_text())
    content = (path / STATE).read_bytes()
    manifest["files"][STATE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / MANIFEST).write_text(json.dumps(manifest))


def places(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(data=st.data(), name=st.sampled_from([STATE, STATE, STATE, "rank-0000.safetensors"]))
def test_saved_steps(attempt, whole, tmp_path, data, name):
    path = tmp_path / whole.name
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    if name == STATE and data.draw(st.integers(0, 3)):
        content = json.loads((path / STATE).read_text())
        *way, last = data.draw(st.sampled_from([place for place in places(content["state"]) if place]))
        inner = content["state"]
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(anything)
        (path / STATE).write_text(json.dumps(content))
        seal(path)
    else:
        content = bytearray((path / name).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        (path / name).write_bytes(content)
    saved = attempt("saved step, a file made up", lambda: read_saved_step(path))
    if saved is not None:
        assert saved.windows[0].micro_batches[0].images.shape == (2, 3, 4, 4)
