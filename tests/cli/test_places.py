"""Places that cannot be written to or read: one sentence, exit code 2, before the work, and nothing left behind."""

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from distillkit.models.weight_files import read_weights
from distillkit.storage.atomic_directory import reserved
from distillkit_cli.main import command_line
from tests.another_user import as_other_user

TOO_LONG = "n" * 256
WRITERS = {
    "run": (["run", *("--device", "cpu")], "cannot write to {out} ({why}); give another --out"),
    "export": (["export", "{run}"], "cannot write to folder '{out}' ({why}); give another folder"),
    "attention": (["attention", "{run}", "{picture}"], "cannot write to '{out}' ({why}); give another --out"),
    "profile": (
        ["profile", "{run}"],
        "the profile cannot be written to '{out}' ({why}); give another folder with --out",
    ),
    "bench": (["bench"], "the result cannot be written to '{out}' ({why}); give another folder with --out"),
}
PLACES = {
    "below a file": ("FILE/b", "'{tmp}/FILE' is a file"),
    "deep below a file": ("FILE/b/c/d", "'{tmp}/FILE' is a file"),
    "a long name": (TOO_LONG, "File name too long"),
    "a long name in a new folder": (f"new/{TOO_LONG}/x", "File name too long"),
    "not a disk": ("/proc/distillkit/out", "No such file or directory"),
}


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", WRITERS)
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(distillkit, trained, tmp_path, verb, place):
    if place == "not a disk" and not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc")
    (tmp_path / "FILE").write_text("mine")
    picture = tmp_path.with_name(f"{tmp_path.name}.png")
    Image.new("RGB", (8, 8)).save(picture)
    arguments, sentence = WRITERS[verb]
    out = tmp_path / PLACES[place][0]
    expected = sentence.format(out=out, why=PLACES[place][1].format(tmp=tmp_path))
    done = distillkit(*(each.format(run=trained, picture=picture) for each in arguments), "--out", str(out))
    assert (done.code, done.out, done.err) == (2, "", f"error: {expected}\n")
    assert entries(tmp_path) == ["FILE"]
    assert (tmp_path / "FILE").read_text() == "mine"


def test_a_second_export_into_one_folder_is_refused_before_the_work(distillkit, trained, tmp_path, monkeypatch):
    """With `--force`, into a new folder, and for a bundle to which formats are added."""
    assert distillkit("export", str(trained), "--out", str(tmp_path / "b")).code == 0
    monkeypatch.setattr("distillkit_export.pipeline.target.load_target", None)  # calling it would fail
    commands = (
        ("b", ("export", str(trained), "--out", str(tmp_path / "b"), "--force")),
        ("new", ("export", str(trained), "--out", str(tmp_path / "new"))),
        ("b", ("export", str(tmp_path / "b"), "--trt")),
    )
    for name, arguments in commands:
        out = tmp_path / name
        with reserved(out):
            expected = (
                f"process {os.getpid()} is writing an export to '{out}'; wait until it ends, or give another folder"
            )
            assert distillkit(*arguments) == (2, "", f"error: {expected}\n")
    assert entries(tmp_path) == ["b"]
    assert distillkit("verify", str(tmp_path / "b")).code == 0


def test_an_export_with_the_longest_name_works(distillkit, trained, tmp_path):
    out = tmp_path / ("n" * 255)
    assert distillkit("export", str(trained), "--out", str(out)).code == 0
    assert entries(tmp_path) == [out.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("arguments", [[], ["--int8"]])
def test_a_disk_that_fills_up_during_an_export_is_one_sentence(distillkit, trained, tmp_path, arguments):
    """No file may be longer than 20 kB, which fails like a full disk; the student has 27 kB."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        done = distillkit("export", str(trained), "--out", str(tmp_path / "new" / "out"), *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: no space left for the export in '{tmp_path / 'new'}'; free some space, or give another folder\n"
    )
    assert entries(tmp_path) == []


class FullLater(io.StringIO):
    """A stdout whose disk is full only when the result is there."""

    def write(self, text):
        if text:
            raise OSError(errno.ENOSPC, "No space left on device")
        return 0


@pytest.mark.parametrize("arguments", [["plugins"], ["recipes", "--json"], ["export", "{run}", "--out", "{tmp}/out"]])
@pytest.mark.parametrize("kind", ["closed", "full", "full later"])
def test_a_closed_or_full_stdout_is_one_sentence(monkeypatch, capsys, trained, tmp_path, kind, arguments):
    if kind == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    given = [each.format(run=trained, tmp=tmp_path) for each in arguments]
    with Path("/dev/full" if kind == "full" else tmp_path / "unused").open("w", encoding="utf-8") as stream:
        replaced = {"closed": None, "full": stream, "full later": FullLater()}[kind]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", replaced)
            patch.setattr("distillkit_cli.terminal._discard_stdout", lambda: None)
            code = command_line(given)
    why = {"closed": "is closed", "full": "is on a full disk"}
    expected = (
        "the result cannot be written to stdout (No space left on device); free some space, or redirect it elsewhere"
        if kind == "full later"
        else f"stdout {why[kind]}, so the result would be lost; redirect it to a file, or to /dev/null"
    )
    assert (code, capsys.readouterr().err) == (2, f"error: {expected}\n")
    # Refused before the work, except where the result was already there: then the bundle stays.
    assert (tmp_path / "out").exists() == (kind == "full later" and "export" in arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("redirected", "code", "last"),
    [
        (">/dev/full", 2, "error: stdout is on a full disk, so the result would be lost; redirect it to a file, or to"),
        (">&-", 2, "error: stdout is closed, so the result would be lost; redirect it to a file, or to"),
        (">/dev/null 2>&-", 0, ""),
        (">/dev/null 2>/dev/full", 0, ""),
    ],
)
def test_streams_as_a_shell_redirects_them(redirected, code, last):
    command = f'{sys.executable} -c "from distillkit_cli.main import main; main()" recipes {redirected}'
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == (f"{last} /dev/null\n" if last else "")


@pytest.mark.parametrize("verb", ["verify", "predict", "export"])
@pytest.mark.parametrize("file", ["bundle.json", "model.onnx", "samples.npz", ""])
def test_a_bundle_without_read_permission_is_one_sentence(trained, shared_folder, tmp_path, verb, file):
    if (verb, file) == ("predict", "samples.npz"):
        pytest.skip("predict does not read the samples")
    bundle = shared_folder / "b"
    if not (trained / "export").is_dir():
        assert command_line(["--quiet", "export", str(trained)]) == 0
    shutil.copytree(trained / "export", bundle)
    (bundle / file).chmod(0)
    given = {"verify": [], "predict": [str(bundle / "predict.py")], "export": ["--format", "torchscript"]}[verb]
    report = tmp_path / "report"
    with report.open("w", encoding="utf-8") as stream:

        def run():
            sys.stderr = stream
            code = command_line([verb, str(bundle), *given])
            stream.flush()
            return code

        assert as_other_user(run) == "2"
    shown = report.read_text().splitlines()
    assert len(shown) == 1, shown
    assert "Permission denied" in shown[0] or (not file and "is not readable" in shown[0])
    assert entries(shared_folder) == ["b"]


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_weights_without_read_permission_are_one_sentence(shared_folder, suffix, locked):
    file = shared_folder / "w" / f"teacher.{suffix}"
    file.parent.mkdir()
    torch.save({"a": torch.ones(1)}, file)
    (file if locked == "file" else file.parent).chmod(0)
    assert as_other_user(lambda: read_weights(file)) == (
        f"WeightsError: {file} cannot be read (Permission denied); change its permissions, or those of its folder"
    )
