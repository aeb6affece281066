"""A pickle with a planted command in every file that a verb reads: it never runs, and the error is one line."""

import builtins
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from distillkit.errors import UserError
from distillkit_cli.main import command_line

TINY = (
    *("--set", "student.image_size=8", "--set", "student.patch=4", "--set", "student.width=16"),
    *("--set", "student.depth=1", "--set", "student.heads=2", "--set", "training.steps=2"),
    *("--set", "training.threads=1", "--set", "data.workers=0", "--set", "trackers=[]", "--device", "cpu"),
)
SOFT_ON_DIGITS = ("--loss", "soft", "--data", "digits")


class Command:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path, function) -> None:
        self.call = {
            "os.system": (os.system, (f"touch '{marker}'",)),
            "eval": (builtins.eval, (f"open({str(marker)!r}, 'w')",)),
        }[function]

    def __reduce__(self):
        return self.call


def as_zip(command) -> bytes:
    return torch_saved({"model": {"head.weight": torch.ones(2)}, "optimizer": command}, new=True)


def before_zip(command) -> bytes:
    return torch_saved({"state_dict": {"head.weight": command}}, new=False)


def torch_saved(content, *, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def in_numpy(command) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([command], dtype=object), allow_pickle=True)
    return file.getvalue()


def in_numpys_zip(command) -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.array([command], dtype=object))
    return file.getvalue()


FILES = {
    "zip": (as_zip, "os.system"),
    "before zip": (before_zip, "eval"),
    "plain": (pickle.dumps, "os.system"),
    "npy": (in_numpy, "eval"),
    "npz": (in_numpys_zip, "os.system"),
}
IS_FULL = settings.get_profile("fuzz").max_examples > 50
KINDS = list(FILES) if IS_FULL else ["zip", "npz"]
SUFFIXES = [".pth", ".safetensors"] if IS_FULL else [".pth"]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run on digits."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert command_line(["--quiet", "run", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def bundle(finished, tmp_path_factory) -> Path:
    """A bundle of the run's student."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    assert command_line(["--quiet", "export", str(finished), "--out", str(out), "--format", "onnx"]) == 0
    return out


@pytest.fixture
def planted(tmp_path):
    """`planted(kind)`: the bytes of a file with a planted command, which must not have run by the end of the test."""
    marker = tmp_path / "marker"

    def make(kind: str) -> bytes:
        write, function = FILES[kind]
        return write(Command(marker, function))

    yield make
    assert not marker.exists()


def typed(*arguments: str) -> int:
    """Run a command line. Raises: UserError if it is refused, so that the tally counts it as refused."""
    code = command_line(["--quiet", *arguments])
    if code == UserError.exit_code:
        raise UserError("refused")
    return code


@pytest.fixture
def refused(attempt, capsys):
    """`refused(...)`: the error message of a command line that must be refused, without `error: `."""

    def run(*arguments: str) -> str:
        given = attempt("command line, a file with a planted command", lambda: typed(*arguments))
        output = capsys.readouterr().err
        assert given is None, output
        assert output.startswith("error: ")
        assert output.count("\n") == 1
        assert "Traceback" not in output
        return output.removeprefix("error: ").rstrip("\n")

    return run


def copy(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place, dirs_exist_ok=True))


def test_the_planted_commands_run_if_loaded_unsafely(tmp_path):
    for kind, (write, function) in FILES.items():
        marker = tmp_path / kind
        content = io.BytesIO(write(Command(marker, function)))
        match kind:
            case "plain":
                pickle.load(content)  # noqa: S301 - this is what must not happen elsewhere
            case "npy":
                np.load(content, allow_pickle=True)
            case "npz":
                np.load(content, allow_pickle=True)["images"]
            case _:
                torch.load(content, weights_only=False)
        assert marker.exists(), kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "typed",
    [
        ("run", "--teacher", "timm:resnet18", "--teacher-weights", "FILE", *SOFT_ON_DIGITS, *TINY, "--out", "OUT"),
        ("run", "--student-weights", "FILE", *TINY, "--out", "OUT"),
        ("finetune", "timm:resnet18", "--weights", "FILE", "--set", "training.steps=1", "--out", "OUT"),
        ("evaluate", "timm:resnet18", "--weights", "FILE", "--data", "digits"),
        ("export", "timm:resnet18", "--weights", "FILE", "--out", "OUT"),
        ("attention", "timm:vit_tiny_patch16_224", "IMAGE", "--weights", "FILE", "--out", "OUT"),
    ],
    ids=lambda typed: f"{typed[0]} {next(option for option in typed if option.endswith('weights'))}",
)
def test_weights(planted, refused, tmp_path, kind, suffix, typed):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(planted(kind))
    places = {"FILE": str(file), "OUT": str(tmp_path / "out"), "IMAGE": str(write_image(tmp_path / "image.png"))}
    assert str(file) in refused(*(places.get(word, word) for word in typed))
    assert not (tmp_path / "out").exists()


def write_image(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "typed",
    [
        ("run", "--from", "RUN", "--out", "OUT"),
        ("run", "--teacher", "run:RUN", "--loss", "soft", *TINY, "--out", "OUT"),
        ("run", "--student-weights", "RUN", *TINY, "--out", "OUT"),
        ("evaluate", "RUN"),
        ("export", "RUN", "--out", "OUT"),
    ],
    ids=lambda typed: " ".join(typed[:3]),
)
def test_students_of_runs(planted, refused, finished, tmp_path, kind, typed):
    run = copy(finished, tmp_path / "run")
    (run / "student.safetensors").write_bytes(planted(kind))
    message = refused(*(word.replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")) for word in typed))
    assert str(run / "student.safetensors") in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["task.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_parts_of_checkpoints(planted, refused, finished, tmp_path, kind, part):
    """With matching digests in the manifest: they protect against accidents, not against attackers."""
    run = copy(finished, tmp_path / "run")
    (run / "result.json").unlink()
    for path in (run / "checkpoints").iterdir():
        (path / part).write_bytes(planted(kind))
        manifest = path / "manifest.json"
        if part != "manifest.json":
            fields = json.loads(manifest.read_text())
            content = (path / part).read_bytes()
            fields["files"][part] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            manifest.write_text(json.dumps(fields))
    assert refused("run", "--resume", str(run)).startswith(f"no checkpoint in {run / 'checkpoints'} can be read: ")
    if part == "task.safetensors":
        assert str(run) in refused("export", str(path), "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["recipe.toml", "student.json", "plan.json", "result.json"])
def test_texts_of_runs(planted, refused, finished, tmp_path, kind, name):
    run = copy(finished, tmp_path / "run")
    (run / name).write_bytes(planted(kind))
    assert name in refused("export", str(run), "--out", str(tmp_path / "out"))
    if name == "recipe.toml":
        assert name in refused("run", "--recipe", str(run / name), "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["bundle.json", "model.onnx"])
def test_files_of_bundles(planted, refused, bundle, tmp_path, kind, where):
    """With matching digests in the manifest."""
    changed = replaced(bundle, tmp_path / "bundle", where, planted(kind))
    image, out = str(write_image(tmp_path / "image.png")), str(tmp_path / "out")
    more = {"predict": [image], "export": ["--out", out], "run --from": ["--out", out]}
    for verb in ("verify", "predict", "profile", "export", "run --from"):
        refused(*verb.split(), str(changed), *more.get(verb, []))


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_bundles(planted, attempt, bundle, tmp_path, kind):
    """The arrays that `verify` compares with."""
    names = [path.relative_to(bundle).as_posix() for path in bundle.rglob("*.np*")]
    assert names
    for name in names:
        changed = replaced(bundle, tmp_path / "bundle", name, planted(kind))
        given = attempt("command line, a file with a planted command", lambda path=changed: typed("verify", str(path)))
        assert given is None


def replaced(bundle: Path, place: Path, name: str, content: bytes) -> Path:
    """A copy of a bundle with a replaced file and its matching digest."""
    changed = copy(bundle, place)
    (changed / name).write_bytes(content)
    if name != "bundle.json":
        manifest = json.loads((changed / "bundle.json").read_text())
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (changed / "bundle.json").write_text(json.dumps(manifest))
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_images(planted, refused, tmp_path, kind):
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "data" / label / f"{number}.png").write_bytes(planted(kind))
    refused("run", "--data", str(tmp_path / "data"), *TINY, "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("kind", KINDS)
def test_class_names(planted, refused, tmp_path, kind):
    file = tmp_path / "classes.txt"
    file.write_bytes(planted(kind))
    typed = (
        "--teacher",
        "timm:resnet18",
        "--teacher-weights",
        "none",
        "--teacher-classes",
        str(file),
        "--loss",
        "soft",
    )
    refused("run", *typed, *TINY, "--out", str(tmp_path / "out"))


def test_zip_files_that_are_not_weights(tmp_path, refused):
    file = tmp_path / "weights.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil.py", "x")
    assert refused("evaluate", "timm:resnet18", "--weights", str(file), "--data", "digits") == (
        f"{file} is not a valid weight file; give a .safetensors file or one written by torch.save"
    )
