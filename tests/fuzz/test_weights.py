"""Truncated, altered or made-up weight files: their tensors or a one-line error, and no command is run."""

import argparse
import builtins
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from distillkit.errors import WeightsError
from distillkit.models import TimmModel
from distillkit.models.checkpoint_parts import WRAPPERS
from distillkit.models.weight_files import read_weights
from distillkit.models.weight_loading import classes_of, load_weights

FUZZ = settings.get_profile("fuzz")
WEIGHTS = {"norm.bias": torch.arange(3.0), "head.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}
HUGE = [10**12, 2**31, 2**40, 2**63 - 1, 2**64 - 1, 10**30, -1, -(2**40)]
SAFETENSORS = save(WEIGHTS)
HEADER = int.from_bytes(SAFETENSORS[:8], "little")

numbers = st.sampled_from(HUGE) | st.integers(0, 64)
shapes = st.lists(numbers, max_size=4)
dtypes = st.sampled_from(["F32", "F64", "I8", "BF16", "F8_E4M3", "U64", "BOOL", "F4", "F999", ""])
names = st.sampled_from(
    ["norm.bias", "head.weight", "__metadata__", "", "\0", "\x1b[2J", "a" * 3_000, "../x"]
) | st.text(max_size=9)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=3)
)
tensor = st.fixed_dictionaries(
    {}, optional={"dtype": dtypes, "shape": shapes, "data_offsets": st.lists(numbers, min_size=1, max_size=3)}
)


def saved(content, *, as_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


TRAINED = {
    "model": WEIGHTS,
    "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 5e-4, "params": [0]}]},
    "lr_scheduler": {"last_epoch": 299},
    "epoch": 299,
    "model_ema": WEIGHTS,
    "scaler": {"scale": 65536.0},
    "args": argparse.Namespace(lr=5e-4, model="deit_tiny_patch16_224", data_path="/data", output_dir=""),
}
"""A checkpoint as main.py of facebookresearch/deit saves it."""


def corrupted(draw, content: bytes) -> bytes:
    how = draw(st.sampled_from(["flip", "flip", "cut", "insert", "splice"]))
    place = draw(st.integers(0, len(content) - 1))
    if how == "cut":
        return content[:place]
    if how == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if how == "splice":
        return content[:place] + content[draw(st.integers(0, len(content) - 1)) :]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.fixture
def read(attempt, tmp_path):
    """`read(kind, name, content)`: the tensors, or None if the file is refused; also reads the header alone."""

    def reader(kind: str, name: str, content: bytes):
        path = tmp_path / name
        path.write_bytes(content)
        whole = attempt(kind, lambda: read_weights(path))
        shapes = attempt(kind, lambda: read_weights(path, shapes_only=True))
        if whole is not None:
            assert shapes is not None
            assert sum(each.nbytes for each in whole.values()) <= 64 * len(content)
            assert {key: each.shape for key, each in whole.items()} == {key: each.shape for key, each in shapes.items()}
        return whole

    return reader


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(data=st.data())
def test_corrupted_safetensors(read, data):
    read("weight file, .safetensors corrupted", "weights.safetensors", corrupted(data.draw, SAFETENSORS))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(
    entries=st.lists(st.tuples(names, tensor | anything), max_size=4),
    length=st.none() | st.none() | st.sampled_from([0, 1, 10**8, 2**40, 2**63, 2**64 - 1]),
    tail=st.integers(0, 64),
)
def test_made_up_safetensors(read, entries, length, tail):
    """Announced lengths of terabytes, overlapping offsets, unknown types, duplicate names."""
    header = "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries) + "}"
    announced = len(header.encode()) if length is None else length
    content = struct.pack("<Q", announced) + header.encode() + bytes(tail)
    read("weight file, .safetensors made up", "weights.safetensors", content)


@pytest.mark.parametrize("as_zip", [True, False])
@settings(FUZZ, max_examples=3 * FUZZ.max_examples)
@given(data=st.data())
def test_corrupted_checkpoints_of_torch(read, as_zip, data):
    content = corrupted(data.draw, saved(TRAINED, as_zip=as_zip))
    read(f"weight file, .pth corrupted ({'zip' if as_zip else 'before zip'})", "weights.pth", content)


def rewritten(content: bytes, change) -> bytes:
    """A zip file of torch with its pickle changed and valid checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, change(part) if entry.filename.endswith("data.pkl") else part)
    return out.getvalue()


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(data=st.data())
def test_pickles_with_matching_digests(read, data):
    """A corrupted pickle in a valid zip file: no checksum protects the reader."""
    content = rewritten(saved(TRAINED, as_zip=True), lambda pickled: corrupted(data.draw, pickled))
    read("weight file, pickle inside a valid .pth corrupted", "weights.pth", content)


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(
    tensors=st.lists(
        st.tuples(
            st.lists(st.sampled_from([0, 1, 3, 2**10, 2**16, 2**31, 2**40]), max_size=4),
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
            st.sampled_from(["expanded", "expanded", "meta", "strided"]),
        ),
        min_size=1,
        max_size=3,
    ),
    as_zip=st.booleans(),
)
def test_tensors_of_any_size(attempt, tmp_path, tensors, as_zip):
    """Tensors that claim more numbers than the file has, or have none, next to those of a network."""
    content = dict(WEIGHTS)
    for number, (shape, dtype, how) in enumerate(tensors):
        try:
            content[f"w{number}"] = of_any_size(shape, dtype, how)
        except RuntimeError:  # more numbers than 64 bits count
            continue
    path = tmp_path / "weights.pth"
    path.write_bytes(saved({"model": content}, as_zip=as_zip))
    network = TimmModel.create("resnet10t", name="cnn", classes=2)

    def loaded():
        shapes = read_weights(path, shapes_only=True)
        classes_of(shapes, network)
        return load_weights(network, read_weights(path), source="weights.pth", fit="all")

    attempt("weight file, tensors larger than the file", loaded)


def of_any_size(shape: list[int], dtype: torch.dtype, how: str) -> torch.Tensor:
    if how == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    if how == "strided":
        return torch.as_strided(torch.zeros(2**10, dtype=dtype), shape, [0] * len(shape))
    return torch.zeros(1, dtype=dtype).expand(shape)


CALLED = ["__builtin__ set", "collections Counter", "collections OrderedDict", "_codecs encode", "torch Size"]
CALLED += [
    "torch FloatTensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._tensor _rebuild_from_type_v2",
    "torch Tensor",
]
operations = st.one_of(
    st.sampled_from(CALLED).map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n"),
    st.sampled_from(
        [b"]", b"}", b"(", b"t", b"\x85", b"\x86", b")", b"R", b"R", b"R", b"\x81", b"b", b"e", b"u", b"a"]
    ),
    st.integers(0, 5).map(lambda place: b"h" + bytes([place])),
    st.integers(0, 5).map(lambda place: b"q" + bytes([place])),
    st.sampled_from(["latin1", "idna", "punycode", "zlib", "a" * 300]).map(
        lambda text: b"X" + struct.pack("<I", len(text)) + text.encode()
    ),
    st.integers(0, 2**31 - 1).map(lambda number: b"J" + struct.pack("<i", number)),
)


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(parts=st.lists(operations, max_size=30), times=st.sampled_from([1, 1, 1_000]))
def test_pickles_of_allowed_calls(attempt, tmp_path, parts, times):
    """Calls that torch allows, in any order, on anything: time and memory stay bounded."""
    path = tmp_path / "weights.pth"
    path.write_bytes(rewritten(saved(WEIGHTS, as_zip=True), lambda _: b"\x80\x02}" + b"".join(parts) * times + b"."))
    attempt("weight file, pickle of allowed calls", lambda: read_weights(path))


FORBIDDEN = [
    "posix system",
    "os system",
    "nt system",
    "subprocess Popen",
    "subprocess check_output",
    "builtins eval",
    "builtins exec",
    "builtins __import__",
    "__builtin__ eval",
    "builtins getattr",
    "builtins open",
    "builtins print",
    "builtins bytearray",
    "operator attrgetter",
    "functools partial",
    "importlib import_module",
    "runpy run_path",
    "pickle loads",
    "_pickle loads",
    "torch load",
    "torch.hub load",
    "torch.serialization load",
    "torch.storage _load_from_bytes",
    "torch.jit load",
    "numpy load",
    "numpy.core.multiarray _reconstruct",
    "shutil rmtree",
    "pty spawn",
    "webbrowser open",
    "codecs decode",
    "argparse FileType",
    "argparse.Namespace __init__",
    "timm.models load_checkpoint",
]
arguments = st.sampled_from(["touch {}", "open({!r}, 'w')", "__import__('os').system('touch {}')", "{}", "os"])


def calling(name: str, argument: str, *, persistent: bool) -> bytes:
    """A pickle that calls a function, in protocol 2; `persistent` uses the result as the id of a tensor's storage."""
    module, function = name.split(" ")
    text = argument.encode()
    call = b"c" + f"{module}\n{function}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R"
    return b"\x80\x02}X\x05\0\0\0model" + call + (b"Q" if persistent else b"") + b"s."


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(
    name=st.sampled_from(FORBIDDEN),
    argument=arguments,
    persistent=st.booleans(),
    where=st.sampled_from(["zip", "before zip", "plain", "tar"]),
)
def test_planted_calls(read, tmp_path, name, argument, persistent, where):
    marker = tmp_path / "marker"
    pickled = calling(name, argument.format(marker), persistent=persistent)
    match where:
        case "zip":
            content = rewritten(saved(WEIGHTS, as_zip=True), lambda _: pickled)
        case "before zip":
            whole = saved(WEIGHTS, as_zip=False)
            place = whole.index(b"\x80\x02", whole.index(b"little_endian"))
            content = whole[:place] + pickled + whole[place:]
        case "plain":
            content = pickled
        case _:
            content = pickled.ljust(512, b"\0")
    assert read("weight file, pickle with a planted call", "weights.pth", content) is None
    assert not marker.exists()
    assert not Path(argument.format(marker)).exists()


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec])
@pytest.mark.parametrize("place", ["alone", "optimizer", "args", "list", "model"])
def test_planted_commands_of_real_files(read, tmp_path, as_zip, function, place):
    marker = tmp_path / "marker"
    argument = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    command = Command(function, argument)
    content = {
        "alone": command,
        "optimizer": {**TRAINED, "optimizer": {"state": {0: {"exp_avg": command}}}},
        "args": {**TRAINED, "args": command},
        "list": [WEIGHTS, command],
        "model": {"model": {**WEIGHTS, "head.bias": command}},
    }[place]
    written = saved(content, as_zip=as_zip)
    assert read("weight file, pickle with a planted command", "weights.pth", written) is None
    assert not marker.exists()
    torch.load(io.BytesIO(written), weights_only=False)
    assert marker.exists(), "the planted command runs if loaded unsafely"


@pytest.mark.parametrize("as_zip", [True, False])
def test_checkpoints_of_the_deit_authors_are_read(tmp_path, as_zip):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(saved(TRAINED, as_zip=as_zip))
    back = read_weights(path)
    assert back.keys() == WEIGHTS.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in WEIGHTS.items())


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    return str(caught.value)


@pytest.mark.parametrize("as_zip", [True, False])
def test_checkpoints_with_pathlib_paths_are_read_without_them(tmp_path, as_zip):
    """Some scripts of the authors put pathlib paths into `args`; Python 3.13 pickles them by a submodule's name."""
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(saved({**TRAINED, "args": argparse.Namespace(output_dir=Path("out"))}, as_zip=as_zip))
    plain = tmp_path / "plain.pth"
    plain.write_bytes(saved(TRAINED, as_zip=as_zip))
    assert read_weights(path).keys() == read_weights(plain).keys()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_pipe_and_a_device_are_refused(attempt, tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert attempt("weight file, a pipe or a device", lambda: read_weights(tmp_path / name)) is None
    assert refusal(tmp_path / name) == f"{tmp_path / name} is a pipe, not a file; give a weight file"
    assert refusal(Path("/dev/zero")) == "/dev/zero is a device, not a file; give a weight file"


@pytest.mark.parametrize("path", ["x" * 5_000, "a\0b", "/proc/self/mem/x"])
def test_invalid_paths(attempt, path):
    assert attempt("weight file, an invalid path", lambda: read_weights(Path(path))) is None


@pytest.mark.parametrize("numel", [10**12, 2**62])
@pytest.mark.parametrize("as_zip", [True, False])
def test_storages_of_terabytes_are_not_allocated(read, as_zip, numel):
    """The pickle announces a storage that the file does not have."""
    old, new = struct.pack("<B", 3), b"\x8a\x08" + struct.pack("<q", numel)
    content = saved({"a": torch.ones(3)}, as_zip=as_zip)

    def enlarged(pickled: bytes) -> bytes:
        place = pickled.index(b"cpu") + 5
        return pickled[:place] + pickled[place:].replace(b"K" + old, new)

    changed = rewritten(content, enlarged) if as_zip else enlarged(content)
    assert changed != content
    assert read("weight file, a storage of terabytes", "weights.pth", changed) is None


def test_a_bytearray_of_terabytes_is_not_allocated(read, tmp_path):
    pickled = b"\x80\x02}X\x01\0\0\0acbuiltins\nbytearray\n\x8a\x06" + struct.pack("<q", 10**12)[:6] + b"\x85Rs."
    for content in (rewritten(saved(WEIGHTS, as_zip=True), lambda _: pickled), pickled):
        path = tmp_path / "weights.pth"
        assert read("weight file, a bytearray of terabytes", path.name, content) is None
        assert refusal(path).startswith(f"{path} tries to run builtins.bytearray when it is loaded and was refused; ")


def test_a_deep_pickle(read):
    pickled = b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    content = rewritten(saved(WEIGHTS, as_zip=True), lambda _: pickled)
    read("weight file, a deep pickle", "weights.pth", content)


@pytest.mark.parametrize("wrappers", [("model",), WRAPPERS])
def test_a_state_dict_nested_in_itself(read, wrappers):
    """{"model": itself, "net": itself}."""
    content = {}
    content.update(dict.fromkeys(wrappers, content))
    assert read("weight file, a dict nested in itself", "weights.pth", saved(content, as_zip=True)) is None
