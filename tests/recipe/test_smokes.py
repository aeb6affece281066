"""`--smoke` of every recipe of the attention papers, on features and of fine-tuning, end to end and without a network.

Teachers run at 224 pixels, as in the full recipe, with random weights instead of downloaded ones; students run at a
smaller size, and those of AttnDistill are narrow, to save time. Teachers of features are small too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.running.start import plan, run
from distillkit_export import ExportOptions, export
from distillkit_plugins.teachers.known import KNOWN

PLUGINS = installed_plugins()
CHEAP = ("data.workers=0", "training.device=cpu", "training.precision=fp32", "trackers=[]")
SMALL_VIT = {"model": "vit-ti", "image_size": 16, "patch": 4, "width": 24, "depth": 2, "heads": 12}


NARROW = ("student.width=24", "training.batch_size=1")


def figures(directory: Path) -> dict[str, float]:
    return dict(json.loads((directory / "result.json").read_text())["figures"])


def require_test_accuracy(directory: Path) -> None:
    """Both test images were classified, so that the accuracy is a multiple of 50 %."""
    measured = figures(directory)
    assert measured["test/images"] == 2.0
    assert measured["test/top1"] in {0.0, 50.0, 100.0}


def of_classes(pictures: Path, teacher: str) -> dict[str, Any]:
    return {"data.train": str(pictures), "teachers": [{"model": teacher}]}


def without_labels(pictures: Path) -> dict[str, Any]:
    return {"data.unlabeled": str(pictures / "train"), "teacher.weights": "none"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, each with three training images and one test image."""
    draw, root = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 3), ("test", 1)):
        for number, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(128 * number, 128 * (number + 1), (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def smoke(tmp_path: Path) -> Any:
    """`smoke(name, overrides, *settings)`: run the recipe with `--smoke`; the run directory."""

    def run_it(name: str, overrides: dict[str, Any], *settings: str) -> Path:
        recipe = load_recipe(name, **overrides, assignments=(*settings, *CHEAP), smoke=True)
        return run(recipe, tmp_path / name, PLUGINS).directory

    return run_it


@pytest.fixture(scope="module")
def vit_of_12_heads(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small ViT fine-tuned on the images, like the teacher of ADViT's recipes."""
    recipe = load_recipe(
        "transfer-cifar10", **{"data.train": str(pictures), "student": SMALL_VIT}, assignments=CHEAP, smoke=True
    )
    return f"run:{run(recipe, tmp_path_factory.mktemp('teacher') / 'run', PLUGINS).directory}"


@pytest.mark.parametrize("loss", ["advit-l1", "advit-l2", "advit-kl"])
def test_advit_with_each_of_its_losses(smoke, pictures, vit_of_12_heads, loss):
    """L1 is the loss of the recipe, the others are set with `--loss`."""
    chosen = {} if loss == "advit-l1" else {"losses": [{"loss": loss}]}
    directory = smoke("advit-ti-cifar10", of_classes(pictures, vit_of_12_heads) | chosen, "student.image_size=32")
    recipe = load_recipe(str(directory / "recipe.toml"))
    assert [entry.loss for entry in recipe.losses] == [loss]
    assert recipe.student.weights == "none"
    require_test_accuracy(directory)


def test_advit_with_the_larger_student(smoke, pictures, vit_of_12_heads):
    directory = smoke("advit-s-cifar10", of_classes(pictures, vit_of_12_heads), "student.image_size=32")
    require_test_accuracy(directory)


@pytest.mark.parametrize("name", ["mugs-vits16-vitt16", "mugs-vitb16-vits16", "dino-vits8-vits16"])
def test_attndistill(smoke, pictures, name):
    directory = smoke(f"attndistill-{name}", without_labels(pictures), *NARROW, "student.image_size=32")
    assert load_file(directory / "student.safetensors")["pos_embed"].shape == (1, 5, 24)


def test_attndistill_on_a_subset_with_both_teachers(smoke, pictures):
    """The student of 6 heads is the teacher of the others."""
    first = smoke("attndistill-subset-vitt16-6heads", without_labels(pictures), *NARROW, "student.image_size=32")
    taught = {"data.unlabeled": str(pictures / "train"), "teachers": [{"model": f"run:{first}"}]}
    for name, patch, layers in (("16", 16, 12), ("16-8layers", 16, 8), ("32", 32, 12), ("32-8layers", 32, 8)):
        directory = smoke(f"attndistill-subset-vitt{name}", taught, *NARROW, f"student.image_size={2 * patch}")
        weights = load_file(directory / "student.safetensors")
        assert weights["patch_embed.proj.weight"].shape == (24, 3, patch, patch)
        assert weights["pos_embed"].shape == (1, 5, 24)
        assert f"blocks.{layers - 1}.norm1.weight" in weights
        assert f"blocks.{layers}.norm1.weight" not in weights


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19"])
def test_transfer(smoke, pictures, data):
    directory = smoke(f"transfer-{data}", {"data.train": str(pictures), "student": SMALL_VIT})
    require_test_accuracy(directory)


ON_FEATURES = {
    # name: image size of each teacher, options of the student
    "dinov2-vits14-resnet18": ({"dinov2-vits14": 28}, {"image_size": 32}),
    "dinov2-vitb14-mobilenetv4": ({"dinov2-vitb14": 28}, {"image_size": 64}),
    "dinov3-vitb16-vit-ti": ({"dinov3-vitb16": 32}, {"image_size": 32, "width": 24}),
    "two-teachers": ({"dinov2": 28, "siglip2": 32}, {"image_size": 32, "width": 24, "heads": 2}),
}


@pytest.mark.parametrize("name", ON_FEATURES)
def test_features_and_export(smoke, pictures, monkeypatch, name):
    teachers, student = ON_FEATURES[name]
    for known in ("dinov2-vits14", "dinov2-vitb14", "dinov3-vitb16", "siglip2-b16"):
        small = {**KNOWN[known].arguments, "depth": 2, "embed_dim": 48, "num_heads": 3}
        monkeypatch.setitem(KNOWN, known, replace(KNOWN[known], arguments=small))
    settings = [f"student.{key}={value}" for key, value in student.items()]
    settings += [f"teachers.{teacher}.image_size={size}" for teacher, size in teachers.items()]
    settings += [f"teachers.{teacher}.weights=none" for teacher in teachers]
    directory = smoke(f"features-{name}", {"data.unlabeled": str(pictures / "train")}, *settings)
    weights = load_file(directory / "student.safetensors")
    assert not [key for key in weights if "projector" in key]
    export(directory, directory / "bundle", ExportOptions(data=str(pictures / "train"), gate_images=4)).require()


@pytest.mark.parametrize("name", ON_FEATURES)
def test_plans_of_features_need_no_weights_and_name_a_licence_that_reaches_the_student(name):
    planned = plan(load_recipe(f"features-{name}"), PLUGINS)
    note = "taught by weights under dinov3-license; check whether its terms extend to the student"
    assert [text for text in planned.notes if text.startswith("taught")] == ([note] if "dinov3" in name else [])
