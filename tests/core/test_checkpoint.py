"""Checkpoints: whole, kept in number, and readable as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillkit.checkpoint import (
    Checkpoint,
    checkpoints,
    join_optimizer_state,
    read_checkpoint,
    split_optimizer_state,
    write_checkpoint,
)
from distillkit.errors import CheckpointError
from distillkit.files import whole_directory


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    whole = torch.rand(3, 4)
    tensors = {"a": whole, "view": whole[:, 1], "same": whole, "double": torch.rand(2, dtype=torch.float64)}
    write_checkpoint(tmp_path, Checkpoint(7, {"task": tensors}, {"best": {"top1": 0.1}}), keep=1)
    back = read_checkpoint(tmp_path / "step-00000007")
    assert back.step == 7
    assert back.state == {"best": {"top1": 0.1}}
    for name, tensor in tensors.items():
        assert torch.equal(back.parts["task"][name], tensor)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write_checkpoint(tmp_path, Checkpoint(step, {}, {}), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000010"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole_directory(tmp_path / "step-00000001") as temporary:
            (temporary / "part").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_checkpoint_says_so(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, Checkpoint(3, {"task": {"a": torch.rand(8)}}, {}), keep=1)
    file = path / "task.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"checkpoint {path} cannot be read (SafetensorError: ")
    assert str(caught.value).endswith("); delete it to resume from the one before")


def test_another_format_says_so(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, Checkpoint(3, {}, {}), keep=1)
    state = path / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"checkpoint {path} has format 9; this version of distillkit reads format 1"


@given(name=st.sampled_from(["AdamW", "SGD", "Adam", "RMSprop"]), steps=st.integers(0, 2))
def test_optimiser_states_survive_the_split(name: str, steps: int) -> None:
    model = torch.nn.Linear(2, 2)
    options = {"momentum": 0.9} if name in {"SGD", "RMSprop"} else {}
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)
    for _ in range(steps):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    state = optimizer.state_dict()
    joined = join_optimizer_state(*split_optimizer_state(state))
    assert joined["param_groups"] == state["param_groups"]
    assert joined["state"].keys() == state["state"].keys()
    for index, entries in state["state"].items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(joined["state"][index][key]), torch.as_tensor(value))
