"""Checkpoints: atomic writes, the number kept, detection of damage, exact restore."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from distillkit.errors import CheckpointError
from distillkit.running.checkpoint import (
    Checkpoint,
    checkpoints,
    delete_leftovers,
    join_optimizer_state,
    newest_checkpoint,
    read_checkpoint,
    split_optimizer_state,
    write_checkpoint,
)
from distillkit.storage.atomic_directory import atomic_directory, recover_directory
from distillkit.training.optimisation import SECOND_ORDER


def test_a_checkpoint_is_restored_bit_by_bit(tmp_path: Path) -> None:
    base = torch.rand(3, 4)
    tensors = {"a": base, "view": base[:, 1], "same": base, "double": torch.rand(2, dtype=torch.float64)}
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
        with atomic_directory(tmp_path / "step-00000001") as temporary:
            (temporary / "part").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def written(directory: Path, *steps: int) -> list[Path]:
    return [
        write_checkpoint(
            directory, Checkpoint(step, {"task": {"a": torch.full((8,), float(step))}}, {"n": step}), keep=9
        )
        for step in steps
    ]


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["task.safetensors", "state.json"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    (path,) = written(tmp_path, 3)
    (path / name).write_bytes((path / name).read_bytes()[:-5])
    assert refusal(path) == (
        f"checkpoint {path} is damaged: {name} does not match the size and SHA-256 in manifest.json"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 3)
    (path / "task.safetensors").unlink()
    assert refusal(path) == f"checkpoint {path} is damaged: task.safetensors is missing"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    name=st.sampled_from(["task.safetensors", "state.json", "manifest.json"]),
    place=st.floats(0, 1),
    bit=st.integers(0, 7),
)
def test_every_flipped_bit_is_detected(tmp_path: Path, name: str, place: float, bit: int) -> None:
    (path,) = written(tmp_path, 3)
    content = bytearray((path / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    (path / name).write_bytes(content)
    try:
        back = read_checkpoint(path)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a flip of white space is allowed to pass
    else:
        assert name == "manifest.json"
        assert (back.step, back.state, back.parts["task"]["a"].tolist()) == (3, {"n": 3}, [3.0] * 8)


def test_the_newest_intact_checkpoint_is_used_and_damage_is_reported(tmp_path: Path) -> None:
    first, second, third = written(tmp_path, 1, 2, 3)
    (third / "task.safetensors").write_bytes(b"half")
    (second / "manifest.json").write_text("{}")
    checkpoint, damaged = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert [str(error) for error in damaged] == [
        f"checkpoint {third} is damaged: task.safetensors does not match the size and SHA-256 in manifest.json",
        f"checkpoint {second} cannot be read (KeyError: 'format')",
    ]
    (first / "state.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"no checkpoint in {tmp_path} can be read: {damaged[0]}; {damaged[1]}; checkpoint {first} is damaged: "
        "state.json is missing; restore one from a backup, or delete them all to restart the run"
    )


def test_without_checkpoints_there_is_no_newest_one(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, ())


def test_another_format_is_refused(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 3)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 4', '"format": 9'))
    assert refusal(path) == f"checkpoint {path} has format 9; this version of distillkit reads format 4"


def test_an_interrupted_replacement_of_a_directory_is_undone(tmp_path: Path) -> None:
    """The process was killed between the two renames: the old directory is moved away, the new one not yet in place."""
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "student.json").write_text("earlier")
    recover_directory(tmp_path / "best")
    assert (tmp_path / "best" / "student.json").read_text() == "earlier"
    recover_directory(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_full_disk_leaves_the_last_checkpoint_intact_and_reports_the_space_needed(tmp_path: Path) -> None:
    """The process may not write files larger than 4 MB, which fails like a disk quota."""
    program = f"""
import resource, signal
from pathlib import Path
import torch
from distillkit.running.checkpoint import Checkpoint, write_checkpoint
from distillkit.errors import TrainingError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
folder = Path({str(tmp_path / "run" / "checkpoints")!r})
write_checkpoint(folder, Checkpoint(1, {{"task": {{"a": torch.ones(100)}}}}, {{}}), keep=1)
try:
    write_checkpoint(folder, Checkpoint(2, {{"task": {{"a": torch.ones(2_000_000)}}}}, {{}}), keep=1)
except TrainingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    folder = tmp_path / "run" / "checkpoints"
    assert re.fullmatch(
        rf"no disk space for the checkpoint of step 2: it needs 8\.0 MB and [\d,.]+ MB are free in {folder}; "
        rf"checkpoint step-00000001 is intact; free some space, then continue with --resume {tmp_path / 'run'}\n",
        done.stdout,
    )
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert read_checkpoint(folder / "step-00000001").step == 1


@given(name=st.sampled_from(["AdamW", "SGD", "Adam", "RMSprop"]), steps=st.integers(0, 2))
def test_optimiser_states_survive_split_and_join(name: str, steps: int) -> None:
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


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    """Promise: Nothing but a regular file is opened.

    Attempt: A run with a pipe in place of a checkpoint, for --resume.
    """
    os.mkfifo(tmp_path / "step-00000004")
    delete_leftovers(tmp_path, keep=1, newest=5)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    """It was writing 9 and deleting 1; 7 is damaged, so the run continues from 5, which must stay."""
    first, second, third, fourth, fifth = written(tmp_path, 1, 2, 3, 5, 7)
    (first / "manifest.json").unlink()
    (tmp_path / ".step-00000009.tmp").mkdir()
    (tmp_path / ".step-00000009.tmp" / "task.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000003.lock").write_text("1")
    delete_leftovers(tmp_path, keep=1, newest=5)
    assert sorted(tmp_path.iterdir()) == [fourth, fifth]
    assert not second.exists()
    assert not third.exists()
    delete_leftovers(tmp_path / "none", keep=1, newest=0)


OPTIMISERS = [
    name
    for name in map(str, list_optimizers())
    if not name.startswith(("bnb", "fused")) and name not in SECOND_ORDER  # these run on CUDA only
]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_resumes_exactly_from_json_and_tensors(name: str) -> None:
    """Also those with tensors in their parameter groups (lamb), lists of tensors (kron), or a dtype (adafactorbv)."""
    networks = [nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)) for _ in range(2)]
    first, second = (create_optimizer_v2(network, opt=name, lr=1e-3, weight_decay=0.01) for network in networks)
    for seed in range(2):
        _step(networks[0], first, seed)
    networks[1].load_state_dict(networks[0].state_dict())
    tensors, rest = split_optimizer_state(first.state_dict())
    copies = {key: tensor.clone() for key, tensor in tensors.items()}
    second.load_state_dict(join_optimizer_state(copies, json.loads(json.dumps(rest))))
    for network, optimizer in zip(networks, (first, second), strict=True):
        _step(network, optimizer, seed=2)
    pairs = zip(networks[0].parameters(), networks[1].parameters(), strict=True)
    assert all(torch.equal(uninterrupted, resumed) for uninterrupted, resumed in pairs)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.randn(4, 6)
    optimizer.zero_grad()
    network(images).square().mean().backward()
    optimizer.step()
