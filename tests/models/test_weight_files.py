import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distillkit.errors import WeightsError
from distillkit.models.weight_files import read_weights

WEIGHTS = {"norm.bias": torch.arange(3.0), "head.weight": torch.arange(6.0).reshape(2, 3)}


class Malicious:
    """A pickle of this runs a command when it is loaded without weights_only."""

    def __init__(self, evidence):
        self.evidence = evidence

    def __reduce__(self):
        import os

        return os.system, (f"touch '{self.evidence}'",)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(path):
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    with pytest.raises(WeightsError) as shapes_error:
        read_weights(path, shapes_only=True)
    assert str(shapes_error.value) == str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "wrapped",
    [
        WEIGHTS,
        OrderedDict(WEIGHTS),
        {"model": WEIGHTS, "epoch": 299},
        {"state_dict": WEIGHTS, "best_prec1": 91.73},
        {"model_state_dict": WEIGHTS},
        {"student": {"other": torch.zeros(1)}, "teacher": WEIGHTS},
        {"model": WEIGHTS, "model_ema": {"norm.bias": torch.zeros(3)}, "args": argparse.Namespace(lr=5e-4)},
        {"model": {"state_dict": WEIGHTS}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        {f"_orig_mod.module.{name}": tensor for name, tensor in WEIGHTS.items()},
        {f"module._orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
        {**WEIGHTS, "epoch": 3},
    ],
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_wrapped_and_prefixed_layouts(tmp_path, wrapped, as_zip):
    path = tmp_path / "weights.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=as_zip)
    assert same(read_weights(path), WEIGHTS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors(tmp_path, prefix):
    path = tmp_path / "weights.safetensors"
    save_file({prefix + name: tensor for name, tensor in WEIGHTS.items()}, path)
    assert same(read_weights(path), WEIGHTS)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_shapes_only(tmp_path, name):
    path = tmp_path / name
    save_file(WEIGHTS, path) if path.suffix == ".safetensors" else torch.save({"model": WEIGHTS}, path)
    shapes = read_weights(path, shapes_only=True)
    assert {name: (tensor.device.type, tensor.shape) for name, tensor in shapes.items()} == {
        name: ("meta", tensor.shape) for name, tensor in WEIGHTS.items()
    }


@pytest.mark.parametrize("as_zip", [True, False])
def test_malicious_command_does_not_run(tmp_path, as_zip):
    path, evidence = tmp_path / "malicious.pth", tmp_path / "evidence"
    torch.save({"model": WEIGHTS, "extra": Malicious(evidence)}, path, _use_new_zipfile_serialization=as_zip)
    assert refused(path) == (
        f"{path} tries to run posix.system when it is loaded and was refused; get a .safetensors file, or, "
        "only if you trust its source, load it once with torch.load(FILE, weights_only=False) and save its state dict "
        "with safetensors.torch.save_file"
    )
    assert not evidence.exists()
    torch.load(path, weights_only=False)
    assert evidence.exists(), "the command does run without weights_only"


def test_plain_pickle_does_not_run(tmp_path):
    path, evidence = tmp_path / "malicious.pkl", tmp_path / "evidence"
    path.write_bytes(pickle.dumps(Malicious(evidence)))
    assert refused(path) == f"{path} is not a valid weight file; give a .safetensors file or one written by torch.save"
    assert not evidence.exists()


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02"])
def test_invalid_weight_file(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert refused(path) == f"{path} is not a valid weight file; give a .safetensors file or one written by torch.save"


@pytest.mark.parametrize("as_zip", [True, False])
def test_truncated_file(tmp_path, as_zip):
    path = tmp_path / "weights.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=as_zip)
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(path) == f"{path} is not a valid weight file; give a .safetensors file or one written by torch.save"


def test_invalid_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"hello")
    assert refused(path) == (
        f"{path} is not a valid .safetensors file (Error while deserializing header: header too small); "
        "copy or download it again"
    )


def test_missing_file(tmp_path):
    path = tmp_path / "weights.pth"
    assert refused(path) == f"there is no weight file {path}; check the path"


def test_directory(tmp_path):
    assert refused(tmp_path) == (
        f"{tmp_path} is a directory; give the weight file in it, or, if it is a run directory, --teacher run:{tmp_path}"
    )


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {}}, {"optimizer": {"state": {}}}, 5])
def test_file_without_tensors(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert refused(path) == f"{path} has no tensors; give a weight file"


@pytest.mark.parametrize(("content", "count"), [(torch.ones(3), "1 tensor"), ([torch.ones(3)] * 2, "2 tensors")])
def test_file_with_tensors_that_have_no_names(tmp_path, content, count):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert refused(path) == (
        f"the tensors in {path} have no names: the top level ({count}); give a file with a state dict"
    )


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("value", [np.float64(91.7), np.int64(3), np.arange(3.0), Path("runs/a"), np.dtype("f4")])
def test_plain_values_of_numpy_and_paths_are_skipped(tmp_path, value, as_zip):
    path = tmp_path / "weights.pth"
    torch.save({"best": value, "model": WEIGHTS}, path, _use_new_zipfile_serialization=as_zip)
    assert same(read_weights(path), WEIGHTS)


def test_wrong_suffix_does_not_matter(tmp_path):
    checkpoint, plain = tmp_path / "weights.safetensors", tmp_path / "weights.bin"
    torch.save({"model": WEIGHTS}, checkpoint)
    save_file(WEIGHTS, plain)
    assert same(read_weights(checkpoint), WEIGHTS)
    assert same(read_weights(plain), WEIGHTS)
    assert read_weights(plain, shapes_only=True).keys() == WEIGHTS.keys()


KEYS = ["state_dict_ema", "ema", "params", "model_state", "weights", "backbone", "module", "teacher_model", "my_net"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_under_any_key(tmp_path, key, prefix):
    """A single part is loaded, whatever its key is; the optimiser's state is not weights."""
    path = tmp_path / "weights.pth"
    inside = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    state = {0: {"exp_avg": torch.zeros(2, 3)}, 1: {"exp_avg": torch.zeros(3)}}
    torch.save({"epoch": torch.tensor(3), "optimizer": {"state": state}, key: inside}, path)
    weights = read_weights(path)
    assert same(weights, WEIGHTS)
    assert weights.notes == ()


@pytest.mark.parametrize(
    ("raw", "ema"),
    [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("params", "params_ema"), ("model", "ema.module")],
)
def test_raw_and_ema_weights_in_one_file(tmp_path, raw, ema):
    path, average = tmp_path / "weights.pth", {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    first, _, second = ema.partition(".")
    torch.save({first: {second: average} if second else average, raw: WEIGHTS}, path)
    weights = read_weights(path)
    assert same(weights, WEIGHTS)
    assert weights.notes == (f"{path} has '{ema}' besides '{raw}', which is loaded; {path}#{ema} loads the other",)
    assert same(read_weights(tmp_path / f"weights.pth#{ema}"), average)
    assert same(read_weights(tmp_path / f"weights.pth#{raw}"), WEIGHTS)


@pytest.mark.parametrize("wrapped", ["", "module."])
def test_part_by_the_beginning_of_its_names(tmp_path, wrapped):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"{wrapped}student.{name}": tensor for name, tensor in WEIGHTS.items()}}, path)
    for key in ("student", f"{wrapped}student"):
        assert same(read_weights(tmp_path / f"weights.pth#{key}"), WEIGHTS)


def test_weights_at_the_top_level_besides_others(tmp_path):
    """The top level has no key, so no remedy names one."""
    path, more = tmp_path / "weights.pth", {**WEIGHTS, "a": torch.zeros(1)}
    torch.save({"model": WEIGHTS, **WEIGHTS}, path)
    assert read_weights(path).notes == (f"{path} has tensors at the top level besides 'model', which is loaded",)
    torch.save({"my_net": WEIGHTS, **more}, path)
    assert read_weights(path).notes == (
        f"{path} has 'my_net' besides tensors at the top level, which is loaded; {path}#my_net loads the other",
    )


def test_file_with_a_hash_in_its_name(tmp_path):
    path = tmp_path / "run#3.pth"
    torch.save(WEIGHTS, path)
    assert same(read_weights(path), WEIGHTS)
    assert refused(tmp_path / "run#4.pth") == f"there is no weight file {tmp_path}/run; check the path"


def test_unknown_part(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": WEIGHTS, "model_ema": WEIGHTS | {"a": torch.zeros(1)}}, path)
    assert refused(tmp_path / "weights.pth#modle") == (
        f"{path} has no part 'modle'; it has model (2 tensors), model_ema (3 tensors)"
    )


def test_part_with_a_longer_name_than_a_file_can_have(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": WEIGHTS}, path)
    assert refused(tmp_path / f"weights.pth#{'k' * 3_000}") == (
        f"{path} has no part '{'k' * 197}...'; it has model (2 tensors)"
    )


def test_several_unknown_parts_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"one": WEIGHTS, "two": {**WEIGHTS, "a": torch.zeros(1)}, "epoch": 3}, path)
    assert refused(path) == (f"{path} has several parts: one (2 tensors), two (3 tensors); choose one with {path}#two")
    assert read_weights(tmp_path / "weights.pth#two").keys() == {*WEIGHTS, "a"}


def test_only_training_state(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 3}, path)
    assert refused(path) == f"{path} has no weights, only optimizer.state.0 (1 tensor); give a weight file"


def test_tensors_without_names(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"shadow": [torch.zeros(3), torch.zeros(2)]}, path)
    assert refused(path) == (f"the tensors in {path} have no names: shadow (2 tensors); give a file with a state dict")


def test_a_mapping_that_contains_itself_and_keys_of_any_type(tmp_path):
    path, content = tmp_path / "weights.pth", {"model": WEIGHTS, 3: WEIGHTS, (1, 2): 4, None: 5}
    content["again"] = content
    torch.save(content, path)
    assert same(read_weights(path), WEIGHTS)
