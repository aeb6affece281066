"""Weight files that no unpickler of torch refuses, and that would take memory or time without end."""

from __future__ import annotations

import argparse
import io
import struct
import zipfile
from collections import Counter, OrderedDict
from fractions import Fraction
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distillkit.errors import WeightsError
from distillkit.models import weight_files
from distillkit.models.pickle_scan import MOST_OPERATIONS, UnexpectedCallError, scan
from distillkit.models.weight_files import read_weights
from distillkit.models.weight_loading import load_weights

ONE = torch.zeros(1)


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def pickled(call: bytes) -> bytes:
    """A pickle of {"model": {"w": ...}, "x": call} in protocol 2; the tensor is missing, as the call comes first."""
    return b"\x80\x02}" + text("x") + call + b"s."


def in_zip(content: bytes, entry: str = "archive/data.pkl") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(entry, content)
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


ENCODE = name("_codecs", "encode")
TIMES = 30_000
BIG = b"](" + b"K\x01" * 30_000 + b"e"  # a list of 30,000 numbers
MEMO = b"q\x05"
CALLS = {
    "text in a slow codec": (ENCODE + text("a" * 90_000) + text("punycode") + b"\x86R", "_codecs.encode"),
    "a codec in a list of arguments": (ENCODE + b"](" + text("a") + text("latin1") + b"eR", "_codecs.encode"),
    "a codec through a subclass": (
        name("torch._tensor", "_rebuild_from_type_v2")
        + b"("
        + ENCODE
        + name("torch", "Tensor")
        + text("a")
        + text("idna")
        + b"\x86NtR",
        "torch._tensor._rebuild_from_type_v2",
    ),
    "one text encoded again and again": (
        ENCODE + b"q\x01" + text("a" * 30_000) + text("latin1") + b"\x86q\x02" + b"R" + b"h\x01h\x02R" * TIMES,
        "a copy of the same objects again and again",
    ),
    "one list copied again and again": (
        name("__builtin__", "set") + b"q\x01" + BIG + b"\x85q\x02R" + b"h\x01h\x02R" * TIMES,
        "a copy of the same objects again and again",
    ),
    "a tensor of any length": (name("torch", "FloatTensor") + b"J\xff\xff\xff\x7f\x85R", "torch.FloatTensor"),
    "a new tensor of any length": (name("torch", "Tensor") + b"J\xff\xff\xff\x7f\x85\x81", "torch.Tensor"),
    "a bytearray of any length": (name("__builtin__", "bytearray") + b"J\xff\xff\xff\x7f\x85R", "builtins.bytearray"),
    "another device": (
        name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor") + b"NNNN(tR",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    ),
    "a function as the result of a call": (name("torch", "device") + text("cpu") + b"\x85R" + b")R", "an object of"),
}


def refusal(path: Any) -> str:
    with pytest.raises(WeightsError) as refused:
        read_weights(path)
    with pytest.raises(WeightsError) as refused_shapes:
        read_weights(path, shapes_only=True)
    assert str(refused_shapes.value) == str(refused.value)
    return str(refused.value).replace(str(path), "FILE")


@pytest.mark.parametrize("before_zip", [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_calls_that_no_saved_state_makes_are_refused_before_torch_reads_them(tmp_path, case, before_zip):
    """Promise: Memory and time are bounded by the size of a weight file.

    Attempt: A small `.pth` that only calls what torch allows, and takes memory or time without end.
    """
    call, called = CALLS[case]
    path = tmp_path / "w.pth"
    if before_zip:
        saved = io.BytesIO()
        torch.save({"w": ONE}, saved, _use_new_zipfile_serialization=False)
        whole = saved.getvalue()
        place = whole.index(b"\x80\x02", whole.index(b"little_endian"))
        path.write_bytes(whole[:place] + pickled(call) + whole[place:])
    else:
        path.write_bytes(in_zip(pickled(call)))
    assert refusal(path).startswith(f"FILE tries to run {called}")


def test_a_meta_tensor_is_the_files_fault(tmp_path):
    """Promise: A fault of a weight file is reported as one, not as a plugin's.

    Attempt: A `.pth` of a model on the meta device, whose tensors have no values.
    """
    torch.save({"w": torch.empty(10**6, 10**6, device="meta")}, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth") == (
        "FILE has tensors without values, saved from a model on the meta device; save the weights of a model that has "
        "them"
    )


@pytest.mark.parametrize("as_zip", [True, False])
def test_an_expanded_tensor_is_refused_from_its_shape(tmp_path, as_zip):
    """Promise: Shapes are checked before the values of a weight file are read.

    Attempt: A `.pth` of a few bytes whose head has 10**11 numbers, all the same one.
    """
    weights = {"head.weight": ONE.expand(10**9, 100), "head.bias": ONE.expand(10**9)}
    torch.save({"model": weights}, tmp_path / "w.pth", _use_new_zipfile_serialization=as_zip)
    assert refusal(tmp_path / "w.pth") == (
        "FILE has a tensor 'head.weight' of [1000000000, 100], which is 100,000,000,000 numbers, and stores 1 of them; "
        "get the file again"
    )


def test_small_expanded_tensors_are_read(tmp_path):
    """Masks and position ids of published files are expanded."""
    torch.save({"ids": torch.arange(77).expand(1, -1), "mask": ONE.expand(1024, 1024)}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["mask"].shape == (1024, 1024)


@pytest.mark.parametrize("fit", ["nothing", "positions", "all"])
@pytest.mark.parametrize("meta", [False, True])
def test_complex_weights_are_refused_and_not_stripped(plain, fit, meta):
    """Promise: Weights that do not fit are refused, also by the kind of their numbers.

    Attempt: Complex weights, whose imaginary part torch would drop with a warning.
    """
    weights = {key: tensor.to("meta") if meta else tensor for key, tensor in plain.network.state_dict().items()}
    weights["norm.bias"] = weights["norm.bias"].to(torch.complex64)
    with pytest.raises(WeightsError) as refused:
        load_weights(plain, weights, source="w.pth", fit=fit)
    assert str(refused.value) == (
        f"w.pth has complex numbers in 1 of {len(weights)} tensors (norm.bias, ...), and the network has real ones; "
        "give weights of exactly this architecture"
    )


def test_complex_safetensors_are_refused_from_their_header(plain, tmp_path):
    """Promise: Weights that do not fit are refused, also by the kind of their numbers.

    Attempt: Complex weights in a `.safetensors` file, for `distillkit plan`.
    """
    weights = {**plain.network.state_dict(), "norm.bias": torch.ones(48, dtype=torch.complex64)}
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / "w.safetensors")
    for shapes_only in (True, False):
        read = read_weights(tmp_path / "w.safetensors", shapes_only=shapes_only)
        with pytest.raises(WeightsError, match=r"^w has complex numbers in 1 of \d+ tensors \(norm.bias, ...\)"):
            load_weights(plain, read, source="w", fit="nothing")


@pytest.mark.parametrize("fit", ["nothing", "positions", "all"])
def test_values_of_another_shape_are_not_read(plain, fit, computed_elements):
    """Promise: Shapes are checked before the values of a weight file are read.

    Attempt: A `.pth` with expanded tensors of the names of the network, of any shape, and a head of any size.
    """
    weights = dict(plain.network.state_dict())
    for key in ("head.weight", "norm.bias", "blocks.0.attn.qkv.weight"):
        weights[key] = ONE.expand(3_000, 5_000)
    with computed_elements() as largest, pytest.raises(WeightsError, match="another shape"):
        load_weights(plain, weights, source="w.pth", fit=fit)
    assert largest[0] < 10**6


@pytest.fixture
def computed_elements():
    """`with computed_elements() as largest:` the numbers of the largest tensor that is computed inside."""
    from contextlib import contextmanager

    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self, largest):
            super().__init__()
            self.largest = largest

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.largest[0] = max(self.largest[0], out.numel())
            return out

    @contextmanager
    def watch():
        largest = [0]
        with Watch(largest):
            yield largest

    return watch


STATE: dict[str, Any] = {
    "model": OrderedDict(w=torch.ones(2), p=torch.nn.Parameter(torch.ones(2)), half=torch.ones(2).bfloat16()),
    "bytes": b"\x00\xff latin" * 3,
    "counter": Counter({10: 1, 20: 1}),
    "set": {1, 2},
    "size": torch.Size([1, 2]),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "complex": 1 + 2j,
    "sparse": torch.eye(3).to_sparse(),
    "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=[1, (2, None, True)])),
    "history": [{"loss": float(step), "step": step} for step in range(3_000)],
    "text": "ü" * 3_000,
    "parameter with state": torch.nn.Parameter(torch.ones(2)),
}
STATE["parameter with state"].note = "kept by torch"


@pytest.mark.parametrize("as_zip", [True, False])
def test_everything_that_checkpoints_hold_is_read(tmp_path, as_zip):
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=as_zip)
    assert {key: tensor.tolist() for key, tensor in read_weights(tmp_path / "w.pth").items()} == {
        "w": [1, 1],
        "p": [1, 1],
        "half": [1, 1],
    }


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_and_subclasses_are_read(tmp_path):
    class_ = torch.nn.Buffer if hasattr(torch.nn, "Buffer") else torch.nn.Parameter
    quantised = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    torch.save({"w": ONE, "q": quantised, "b": class_(torch.ones(2))}, tmp_path / "w.pth")
    assert set(read_weights(tmp_path / "w.pth")) == {"w", "q", "b"}


def test_names_that_a_plugin_allows_are_read(tmp_path):
    torch.save({"w": ONE, "best": Fraction(1, 3)}, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").startswith("FILE tries to run fractions.Fraction")
    with torch.serialization.safe_globals([Fraction]):
        assert set(read_weights(tmp_path / "w.pth")) == {"w"}


@pytest.mark.parametrize("entry", ["archive/data.pkl", "archive/DATA.PKL", "data.pkl"])
def test_the_pickle_that_torch_reads_is_the_one_that_is_scanned(tmp_path, entry):
    """Promise: What is loaded is what was checked.

    Attempt: A zip file whose pickle has another name for Python than for torch.
    """
    (tmp_path / "w.pth").write_bytes(in_zip(pickled(CALLS["text in a slow codec"][0]), entry))
    assert refusal(tmp_path / "w.pth").startswith("FILE tries to run _codecs.encode")


def test_a_file_of_two_formats_is_scanned_in_the_one_that_torch_reads(tmp_path):
    """Promise: What is loaded is what was checked.

    Attempt: A file in torch's format before zip, with a harmless zip file after it.
    """
    saved, harmless = io.BytesIO(), io.BytesIO()
    torch.save({"w": ONE}, saved, _use_new_zipfile_serialization=False)
    torch.save({"w": ONE}, harmless)
    whole = saved.getvalue()
    place = whole.index(b"\x80\x02", whole.index(b"little_endian"))
    planted = whole[:place] + pickled(CALLS["text in a slow codec"][0]) + whole[place:]
    (tmp_path / "w.pth").write_bytes(planted + harmless.getvalue())
    assert zipfile.is_zipfile(tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").startswith("FILE tries to run _codecs.encode")


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02R.", b"\x80\x02(\x86.", b"\x80\x02h\x05.", b"\x80\x02te."])
def test_a_pickle_that_is_cut_or_made_up_is_no_weight_file(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(in_zip(content))
    assert refusal(tmp_path / "w.pth") in (
        "FILE is not a valid weight file; give a .safetensors file or one written by torch.save",
        "FILE has no tensors; give a weight file",
    )


def test_an_operation_that_torch_does_not_write_is_refused():
    with pytest.raises(ValueError, match="has the operation INST, which torch does not write"):
        scan(io.BytesIO(b"(ios\nsystem\n."))
    with pytest.raises(UnexpectedCallError, match=r"posix.system"):
        scan(io.BytesIO(b"\x80\x02" + name("posix", "system") + b"."))


@pytest.mark.parametrize("shapes_only", [False, True])
def test_an_empty_tensor_with_an_absurd_side_is_the_files_fault(tmp_path, shapes_only):
    """Promise: A fault of a weight file is reported as one, not as a plugin's.

    Attempt: A `.safetensors` file with a tensor of [0, 2**64 - 1], which has no values.
    """
    header = b'{"w":{"dtype":"F32","shape":[0,%d],"data_offsets":[0,0]}}' % (2**64 - 1)
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(
        WeightsError, match=r"a\.safetensors is not a valid \.safetensors file \(.*\); copy or download"
    ):
        read_weights(tmp_path / "a.safetensors", shapes_only=shapes_only)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_of_objects_without_end_is_refused(tmp_path, as_zip, monkeypatch):
    """Promise: Memory and time are bounded by the size of a weight file.

    Attempt: A `.pth` of 100 kB whose pickle unpacks to 100 million lists.
    """
    content = b"\x80\x02" + b"]" * (MOST_OPERATIONS if as_zip else 1_000) + b"."
    if as_zip:
        with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        (tmp_path / "x.pth").write_bytes(content)
        monkeypatch.setattr(scan, "__kwdefaults__", {"most": 1_000})
    with pytest.raises(WeightsError) as refused:
        read_weights(tmp_path / "x.pth")
    assert str(refused.value) == (
        f"{tmp_path / 'x.pth'} has a pickle of more than 4,194,304 operations, which no weights need; save it again as "
        "a .safetensors file"
    )


def test_all_pickles_of_a_file_count(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "MOST_OPERATIONS", 20)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for folder in "abc":
            archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + b"]" * 8 + b".")
    with pytest.raises(WeightsError, match="has a pickle of more than 20 operations"):
        read_weights(tmp_path / "x.pth")
