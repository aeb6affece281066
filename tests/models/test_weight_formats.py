"""Files of other formats are named."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from distillkit.errors import WeightsError
from distillkit.models import read_weights


def refused(path):
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    return str(caught.value)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_is_named_and_the_remedy_works(tmp_path, how):
    path, new, network = tmp_path / "model.pt", tmp_path / "new.pt", nn.Linear(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        made = torch.jit.script(network) if how == "script" else torch.jit.trace(network, torch.zeros(1, 3))
        torch.jit.save(made, path)
        torch.save(torch.jit.load(path).state_dict(), new)
    assert refused(path) == (
        f"{path} is a TorchScript archive, whose code is not run; if you trust it, save its weights once with "
        "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
    )
    assert torch.equal(read_weights(new)["weight"], network.weight)


def test_exported_program_is_named_and_the_remedy_works(tmp_path):
    path, new, network = tmp_path / "model.pt2", tmp_path / "new.pt", nn.Linear(3, 2)
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3),)), path)
    torch.save(torch.export.load(path).state_dict, new)
    assert refused(path) == (
        f"{path} is a program of torch.export; if you trust it, save its weights once with "
        "torch.save(torch.export.load(FILE).state_dict, NEW)"
    )
    assert torch.equal(read_weights(new)["bias"], network.bias)


def test_numpy_archive_is_named(tmp_path):
    path = tmp_path / "ViT-B_16.npz"
    np.savez(path, embedding=np.zeros(3))
    assert refused(path) == (
        f"{path} is an archive of NumPy arrays, such as Google's weights of ViT; convert it once with timm: "
        "load_pretrained(FILE) of the model, then torch.save(model.state_dict(), NEW)"
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 7\n",
            "a pointer of Git LFS and not the weights; fetch them with `git lfs pull`",
        ),
        (b"<!DOCTYPE html><html></html>", "a web page and not weights; download the file itself"),
        (b"\n <HTML><body>404</body>", "a web page and not weights; download the file itself"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras; convert its weights to PyTorch first"),
        (b"GGUF\x03\x00", "a GGUF file; give the weights in PyTorch's format or as .safetensors"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip; unpack it first"),
    ],
)
def test_other_files_are_named(tmp_path, content, what, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert refused(path) == f"{path} is {what}"
