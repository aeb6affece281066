"""`--teacher regnety16gf --loss hard` as typed, and with a weight file of the published layout in three other ways.

The weights are random. The layouts are those of the Hugging Face hub's cache, and of regnety_160-a5fe301d.pth: the
network's tensors under "model".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from distillkit_cli.main import command_line
from tests.imagenette_files import write_imagenette

pytestmark = pytest.mark.slow

SHORT = ["--set", "training.steps=2", "--set", "training.batch_size=2", "--set", "data.workers=0", "--device", "cpu"]
SMALL_STUDENT = ["--student", "deit-ti", "--set", "student.width=48", "--set", "student.depth=2"]
SMALL_STUDENT += ["--set", "student.heads=2", "--set", "student.image_size=112"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A weight file for 1,000 classes in the published layout; 335 MB, deleted afterwards."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "regnety_160.pth"
    torch.save({"model": timm.create_model("regnety_160").state_dict()}, path)
    yield path
    path.unlink()


def test_the_command_as_typed(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_imagenette(tmp_path / "share" / "distillkit" / "imagenette", train=2, test=1)
    cached = tmp_path / "hub" / "models--timm--regnety_160.deit_in1k"
    (cached / "snapshots" / "0123abcd").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abcd")
    save_file(torch.load(weights)["model"], cached / "snapshots" / "0123abcd" / "model.safetensors")
    assert command_line(["run", "--teacher", "regnety16gf", "--loss", "hard", *SHORT]) == 0
    plan = json.loads(Path("runs/deit-ti-imagenette-hard-seed0-001/plan.json").read_text())
    assert plan["teachers"][0]["sees"] == [224, 224]
    assert len(plan["teachers"][0]["class_map"]) == 10


def save_images(folder: Path, names: tuple[str, ...] = ("",), each: int = 6) -> Path:
    """Save crops of two photographs, 224 x 224 pixels, in one folder per name."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            left = 40 * index + 10 * number
            crop = photographs[index % 2].crop((left, 20 * index, left + 224, 20 * index + 224))
            crop.save(folder / name / f"{index}.png")
    return folder


def test_unlabelled_images_with_the_teachers_classes(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    unlabelled = str(save_images(tmp_path / "images"))
    typed = ["run", "--teacher", "regnety16gf", "--teacher-weights", str(weights), "--loss", "hard"]
    assert command_line([*typed, "--unlabeled", unlabelled, *SMALL_STUDENT, *SHORT, "--out", str(out)]) == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["classes"] == 1000
    assert plan["loss"] == "0.5 * hard"
    assert plan["student"]["answers_with"] == "distill"
    assert plan["teachers"][0]["sees"] == [224, 224]
    assert load_file(out / "student.safetensors")["head_dist.weight"].shape == (1000, 48)
    assert "No labelled validation or test images" in (out / "report.md").read_text()
    capsys.readouterr()


def test_a_folder_whose_classes_are_a_subset_of_the_teachers(weights: Path, tmp_path: Path) -> None:
    """A WordNet id and two class names: outputs 207, 1 and 0 of the teacher, in the order of the folder."""
    out = tmp_path / "run"
    folder = save_images(tmp_path / "classes", ("golden retriever", "n01443537", "tench"), each=4)
    typed = ["run", "--teacher", "regnety16gf", "--teacher-weights", str(weights), "--loss", "hard"]
    assert command_line([*typed, "--data", str(folder), *SMALL_STUDENT, *SHORT, "--out", str(out)]) == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["class_names"] == ["golden retriever", "n01443537", "tench"]
    assert plan["teachers"][0]["class_map"] == [207, 1, 0]


def test_a_teacher_fine_tuned_on_the_classes_of_the_data(weights: Path, tmp_path: Path) -> None:
    names = tuple(f"class-{number}" for number in range(10))
    folder = save_images(tmp_path / "classes", names, each=2)
    tuned, out = tmp_path / "tuned", tmp_path / "run"
    typed = ["finetune", "regnety16gf", "--weights", str(weights), "--data", str(folder)]
    assert command_line([*typed, "--set", "student.image_size=64", *SHORT, "--out", str(tuned)]) == 0
    assert load_file(tuned / "student.safetensors")["head.fc.weight"].shape == (10, 3024)
    typed = ["run", "--teacher", f"run:{tuned}", "--loss", "hard", "--data", str(folder), "--student", "deit-ti"]
    typed += ["--set", "student.image_size=64", "--set", "student.width=48", "--set", "student.heads=2"]
    assert command_line([*typed, *SHORT, "--out", str(out)]) == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["teachers"][0]["classes"] == 10
    assert plan["loss"] == "0.5 * labels + 0.5 * hard"
