"""Commands without TARGET: the newest finished run in runs/, or its bundle."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

NOTE = "TARGET is runs/new, the newest finished run\n"
BUNDLE_NOTE = "the bundle is runs/new/export, of the newest finished run\n"
NO_BUNDLE = (
    "error: no BUNDLE is given, and runs/new, the newest finished run, has none; give a bundle, or export the run with "
    "distillkit export runs/new\n"
)
NONE = "error: no TARGET is given and there is no finished run in runs/; give TARGET, or {}\n"


@pytest.fixture
def place(tmp_path, trained, monkeypatch):
    """A working directory with an older and a newer finished run, an unfinished one, and a picture."""
    monkeypatch.chdir(tmp_path)
    for name, time in (("zeta", 1_000_000_000), ("new", 1_100_000_000), ("unfinished", 1_200_000_000)):
        shutil.copytree(trained, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "result.json", (time, time))
    (tmp_path / "runs" / "unfinished" / "result.json").unlink()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path


def test_evaluate(distillkit, place):
    result = distillkit("evaluate", "--split", "validation")
    assert (result.code, result.err) == (0, NOTE)
    assert (place / "runs" / "new" / "evaluations.jsonl").is_file()
    assert not (place / "runs" / "zeta" / "evaluations.jsonl").exists()


def test_attention(distillkit, place):
    result = distillkit("attention", "cat.png", "--layers", "last")
    assert (result.code, result.err.splitlines()[0]) == (0, NOTE.strip())
    assert result.out.splitlines()[0] == "runs/new/attention/cat-attention.png"


@pytest.mark.usefixtures("onnx_functions_parsed_once")
def test_export_then_predict_then_export_to_the_bundle(distillkit, place):
    assert distillkit("predict", "cat.png") == (2, "", NO_BUNDLE)
    exported = distillkit("export", "--gate-images", "8")
    assert (exported.code, exported.err.splitlines()[0]) == (0, NOTE.strip())
    assert exported.out.splitlines()[0].startswith("runs/new/export: 1 file")

    predicted = distillkit("predict", "cat.png", "--top", "1")
    assert (predicted.code, predicted.err) == (0, BUNDLE_NOTE)
    assert predicted.out.splitlines()[0] == "cat.png"
    (place / "shots").mkdir()
    shutil.copy(place / "cat.png", place / "shots")
    assert distillkit("predict", "shots", "--top", "1").out.splitlines()[0] == "shots/cat.png"
    assert distillkit("predict", "*.png", "--top", "1").out.splitlines()[0] == "cat.png"
    assert distillkit("predict", "runs/new/export", "cat.png", "--top", "1") == (0, predicted.out, "")

    # Another format is added to the bundle; the run itself already has an export.
    added = distillkit("export", "--format", "unknown")
    assert added.err.splitlines()[0] == BUNDLE_NOTE.strip()
    again = distillkit("export")
    exists = "folder 'runs/new/export' already contains an export; give another folder, or --force to replace it"
    assert (again.code, again.err) == (2, f"{NOTE}error: {exists}\n")


def test_profile(distillkit, place, monkeypatch):
    measured = []

    def measure(targets, *_, **__):
        measured.extend(targets)
        raise KeyboardInterrupt

    monkeypatch.setattr("distillkit_export.profiling.profile.profile", measure)
    assert distillkit("profile") == (130, "", NOTE)
    assert measured == ["runs/new"]


@pytest.mark.parametrize("verb", ["evaluate", "profile", "export", "predict", "attention"])
def test_without_a_finished_run_it_says_what_to_do(verb, distillkit, place):
    images = ["cat.png"] if verb in ("predict", "attention") else []
    for name in ("zeta", "new"):
        (place / "runs" / name / "result.json").unlink()
    os.utime(place / "runs" / "unfinished" / "recipe.toml", (2_000_000_000, 2_000_000_000))
    unfinished = "continue runs/unfinished with distillkit run --resume runs/unfinished"
    assert distillkit(verb, *images) == (2, "", NONE.format(unfinished))
    shutil.rmtree(place / "runs")
    assert distillkit(verb, *images) == (2, "", NONE.format("train a student first with distillkit run"))


@pytest.mark.parametrize("arguments", [("predict", "runs/new"), ("attention", "runs/new"), ("attention", "vit-b")])
def test_a_target_without_images(arguments, distillkit, place):
    assert distillkit(*arguments) == (2, "", "error: no IMAGE is given; name at least one image file\n")


def test_evaluate_in_several_processes_passes_the_run_on(distillkit, place, monkeypatch):
    launched = []

    def launch(arguments, processes, **_):
        launched.append((arguments, processes))
        return 0

    monkeypatch.setattr("distillkit_cli.launching.launch", launch)
    assert distillkit("evaluate", "--nproc", "2") == (0, "", NOTE)
    assert launched == [(["evaluate", "runs/new"], 2)]
