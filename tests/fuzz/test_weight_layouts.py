"""Weight files in any layout: wrappers, EMA, prefixes, `FILE#KEY`, TorchScript, tensors renamed, lost or reshaped."""

import io
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.models import TimmModel, load_weights
from distillkit.models.checkpoint_parts import EMA, TRAINING_STATE, WRAPPERS
from distillkit.models.network_names import PREFIXES
from distillkit.models.weight_files import read_weights
from tests.fuzz.test_weights import TRAINED, WEIGHTS, corrupted, saved

FUZZ = settings.get_profile("fuzz")
SUFFIXES = st.sampled_from([".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", "", ".pth.tar", ".zip", "#x.pth"])
known_keys = st.sampled_from([*WRAPPERS, *sorted(TRAINING_STATE), "args", "epoch"])
any_key = known_keys | st.text(string.ascii_letters + "._#/\x1b", max_size=8) | st.integers(0, 3) | st.none()
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
leaves = st.sampled_from([WEIGHTS, torch.ones(3), torch.tensor(4), [torch.ones(2)], {"0": torch.ones(1)}, {}]) | plain
contents = st.recursive(
    leaves,
    lambda inner: st.dictionaries(any_key, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=8,
)


def named_part(draw, path: Path) -> Path:
    """`path`, or a part of it: FILE#KEY."""
    key = draw(st.none() | known_keys | st.sampled_from(["model.norm", "0", "#", "a.b.c", "\x1b[2J", "x" * 3_000]))
    return path if key is None else path.with_name(f"{path.name}#{key}")


def is_tensors(weights) -> bool:
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())


@settings(FUZZ, max_examples=6 * FUZZ.max_examples)
@given(content=contents, suffix=SUFFIXES, data=st.data(), as_zip=st.booleans())
def test_nested_contents(attempt, tmp_path, content, suffix, data, as_zip):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(saved(content, as_zip=as_zip))
    asked = named_part(data.draw, path)
    weights = attempt("weight file, nested under keys of any kind", lambda: read_weights(asked))
    shapes = attempt("weight file, nested under keys of any kind", lambda: read_weights(asked, shapes_only=True))
    assert (weights is None) == (shapes is None)
    assert weights is None or (weights and is_tensors(weights))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=2),
    suffix=SUFFIXES,
)
def test_a_state_dict_in_known_wrappers_is_read(attempt, tmp_path, wrappers, prefixes, suffix):
    content = {"".join(prefixes) + name: tensor for name, tensor in WEIGHTS.items()}
    for key in wrappers:
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(saved(content, as_zip=True))
    weights = attempt("weight file, known wrappers and prefixes", lambda: read_weights(path))
    assert weights is not None
    assert weights.keys() == WEIGHTS.keys()


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(raw=st.sampled_from(["model", "state_dict", "network"]), ema=st.sampled_from(EMA))
def test_each_of_raw_and_ema_can_be_chosen(attempt, tmp_path, raw, ema):
    path = tmp_path / "weights.pth"
    smoothed = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    path.write_bytes(saved({ema: smoothed, raw: WEIGHTS}, as_zip=True))
    weights = attempt("weight file, FILE#KEY of an EMA", lambda: read_weights(path))
    assert weights.notes == (f"{path} has '{ema}' besides '{raw}', which is loaded; {path}#{ema} loads the other",)
    other = attempt("weight file, FILE#KEY of an EMA", lambda: read_weights(path.with_name(f"{path.name}#{ema}")))
    assert torch.equal(other["norm.bias"], WEIGHTS["norm.bias"] + 1)


class Twice(torch.nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * 2


@pytest.fixture(scope="module")
def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Twice()), file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(data=st.data(), suffix=SUFFIXES)
def test_corrupted_torchscript(attempt, tmp_path, scripted, data, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(corrupted(data.draw, scripted) if data.draw(st.booleans()) else scripted)
    assert attempt("weight file, TorchScript", lambda: read_weights(named_part(data.draw, path))) is None


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(data=st.data(), key=st.text(max_size=12))
def test_parts_of_a_real_checkpoint(attempt, tmp_path, data, key):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(TRAINED, as_zip=True))
    attempt("weight file, FILE#KEY of any text", lambda: read_weights(Path(f"{path}#{key}")))
    attempt("weight file, FILE#KEY of any text", lambda: read_weights(named_part(data.draw, path)))


@pytest.fixture(scope="module")
def model():
    sizes = {"image_size": (16, 16), "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    return TimmModel.create("deit_tiny_patch16_224", name="vit", classes=3, **sizes)


@settings(FUZZ, max_examples=6 * FUZZ.max_examples)
@given(data=st.data(), fit=st.sampled_from(["nothing", "positions", "all"]))
def test_tensors_that_do_not_fit(attempt, model, data, fit):
    """Loaded, or refused with the network unchanged."""
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in before.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(weights)))
        how = data.draw(st.sampled_from(["lose", "rename", "prefix", "reshape", "dtype", "nan", "add"]))
        tensor = weights.pop(name)
        match how:
            case "rename":
                weights[data.draw(st.text(max_size=8) | st.sampled_from(["", "head.", ".", "\x1b[2J"]))] = tensor
            case "prefix":
                prefix = data.draw(st.sampled_from(["net.", "student.", "module.", "a.b.", "."]))
                weights = {f"{prefix}{each}": value for each, value in {**weights, name: tensor}.items()}
            case "reshape":
                shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
                weights[name] = torch.zeros(shape)
            case "dtype":
                weights[name] = tensor.to(data.draw(st.sampled_from([torch.int64, torch.bool, torch.complex64])))
            case "nan":
                weights[name] = torch.full_like(tensor, float("nan"), dtype=torch.float32)
            case "add":
                weights |= {name: tensor, "head_dist.weight": torch.zeros(3, 24)}
        if not weights:
            break
    report = attempt(
        "weight file, tensors lost, renamed or reshaped", lambda: load_weights(model, weights, source="w", fit=fit)
    )
    after = model.network.state_dict()
    assert report is not None or all(torch.equal(before[name], after[name]) for name in before)
    model.network.load_state_dict(before)
