"""`run --teacher T --loss hard` and `export --trt` as typed, for a small teacher of ImageNet's classes."""

import json

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.imagenette_files import WNIDS, write_imagenette

MODEL = "test_resnet.r160_in1k"
REASON = f"the default for teacher 'timm:{MODEL}', which knows its classes"
SMALL = [
    *("--set", "student.image_size=32"),
    *("--set", "student.width=24"),
    *("--set", "student.depth=1"),
    *("--set", "student.heads=2"),
    *("--set", "data.workers=0"),
    *("--set", 'trackers=["metrics"]'),
    *("--device", "cpu"),
]


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without a network, with the weights (random) and the data in their places."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_imagenette(tmp_path / "share" / "distillkit" / "imagenette", train=6)
    cached = tmp_path / "hub" / f"models--timm--{MODEL}"
    (cached / "snapshots" / "0123abcd").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abcd", encoding="utf-8")
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL).state_dict(), cached / "snapshots" / "0123abcd" / "model.safetensors")
    return tmp_path


def test_run_export_predict_without_data_target_and_bundle(distillkit, machine):
    ran = distillkit("run", "--teacher", f"timm:{MODEL}", "--loss", "hard", "--smoke", *SMALL)
    run = machine / "runs" / "deit-ti-imagenette-hard-seed0-001"
    assert (ran.code, ran.err.splitlines()[0]) == (0, f"data imagenette: {REASON}")
    plan = json.loads((run / "plan.json").read_text())
    assert plan["data"]["train"] == "imagenette"
    assert plan["data"]["reason"] == REASON
    assert tuple(plan["class_names"]) == WNIDS
    outputs = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # of ImageNet's 1,000
    assert plan["teachers"][0]["class_map"] == outputs
    assert load_file(run / "student.safetensors")["head_dist.weight"].shape == (10, 24)

    exported = distillkit("export", "--trt", "--gate-images", "8")
    assert exported.code == 3
    assert exported.out.splitlines()[0].startswith("runs/deit-ti-imagenette-hard-seed0-001/export: 1 file")
    assert exported.err.splitlines()[0] == "TARGET is runs/deit-ti-imagenette-hard-seed0-001, the newest finished run"
    assert "tensorrt fp32 is pending" in exported.err

    image = next((machine / "share" / "distillkit" / "imagenette").rglob("val/*/*.JPEG"))
    predicted = distillkit("predict", str(image), "--top", "1")
    assert predicted.code == 0
    assert predicted.out.split()[-1] in WNIDS


def test_the_plan_says_what_was_chosen_and_why(distillkit):
    planned = distillkit("plan", "--teacher", f"timm:{MODEL}", "--loss", "hard", *SMALL)
    assert planned.code == 0
    words = " ".join(planned.out.split())  # lines are wrapped at 100 columns
    assert words.startswith(
        "data imagenette: 57 images, 57 labelled; validation 3, test 20; resumes exactly; kept in memory, "
        f"about 410.4 kB {REASON}; --data names other images classes 10: n01440764, n02102040, "
    )


def test_a_teacher_by_name_is_evaluated_on_its_default_data(distillkit):
    evaluated = distillkit("evaluate", f"timm:{MODEL}", "--device", "cpu")
    assert evaluated.code == 0
    assert evaluated.out.splitlines()[1].split() == ["data", "imagenette"]


def test_classes_without_names_do_not_match_the_default_data_by_index(distillkit, machine):
    weights = machine / "own.safetensors"
    save_file(timm.create_model(MODEL, num_classes=10).state_dict(), weights)
    own = ("--teacher", f"timm:{MODEL}", "--teacher-weights", str(weights), "--loss", "hard")
    refused = distillkit("run", *own, *SMALL)
    assert (refused.code, refused.err.splitlines()[-1]) == (
        2,
        (
            f"error: teacher 'timm:{MODEL}' has 10 classes without names, which cannot be matched with the default "
            "data, imagenette; give --data"
        ),
    )
