import argparse
import pickle
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from distillkit.errors import WeightsError
from distillkit.models.weight_files import names_of_network, read_weights, unwrapped_names, without_training_parts

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


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {}}, [torch.zeros(2)], 5])
def test_file_without_tensors(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert refused(path) == f"{path} has no tensors; give a weight file"


def test_prefix_is_removed_only_if_every_name_has_it():
    weights = {"module.norm.bias": torch.zeros(1), "head.bias": torch.zeros(1)}
    assert unwrapped_names(weights).keys() == weights.keys()
    assert unwrapped_names({}) == {}


@pytest.mark.parametrize("prefix", ["model.", "network.", "backbone.", "encoder."])
def test_network_inside_a_checkpoint_that_holds_more(prefix):
    weights = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    weights["projection.mlp.weight"] = torch.zeros(1)
    assert same(names_of_network(weights, WEIGHTS.keys()), WEIGHTS)


def test_head_next_to_a_backbone_is_kept():
    weights = {"backbone.norm.bias": WEIGHTS["norm.bias"], "head.weight": WEIGHTS["head.weight"]}
    weights |= {"backbone.a": torch.zeros(1), "backbone.b": torch.zeros(1)}
    network = names_of_network(weights, [*WEIGHTS, "a", "b"])
    assert network.keys() == {"norm.bias", "head.weight", "a", "b"}


def test_parts_that_only_training_needs_are_dropped_unless_the_network_has_them():
    parts = ["decoder_embed.weight", "decoder_blocks.0.norm1.bias", "mask_token", "relation_blocks.0.norm1.bias"]
    weights = {**WEIGHTS, **dict.fromkeys(parts, torch.zeros(1))}
    assert without_training_parts(weights, WEIGHTS.keys()).keys() == WEIGHTS.keys()
    assert without_training_parts(weights, {"norm.bias"}, unneeded=("head.",)).keys() == {"norm.bias"}
    assert without_training_parts(weights, weights.keys()).keys() == weights.keys()


def test_a_mask_token_without_decoder_is_kept():
    weights = {**WEIGHTS, "mask_token": torch.zeros(1), "blocks.0.relation_blocks.bias": torch.zeros(1)}
    assert without_training_parts(weights, WEIGHTS.keys()).keys() == weights.keys()


names = st.sets(st.text("abc.", min_size=1, max_size=6), min_size=1, max_size=6)


@given(names, st.sampled_from(["", "encoder.", "backbone."]))
def test_names_of_the_network_are_not_changed(own, prefix):
    known = {prefix + name for name in own}
    weights = dict.fromkeys(known, torch.zeros(1))
    assert names_of_network(weights, known) == weights
