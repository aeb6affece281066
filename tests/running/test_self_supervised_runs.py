"""A self-supervised teacher, without classes, in a run and in evaluation: DINO ViT-S/16 with random weights."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from distillkit.errors import SignalError
from distillkit.evaluation.evaluate import evaluate
from distillkit.planning.render import plan_as_dict, plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import plan, resume, run

PLUGINS = installed_plugins()
STUDENT = {"model": "deit-ti", "image_size": 16, "patch": 8, "width": 24, "depth": 1, "heads": 2, "position": "sincos"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224.dino", num_classes=0)
    weights = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    path = tmp_path_factory.mktemp("dino") / "checkpoint.pth"
    torch.save({"teacher": {**weights, "head.mlp.0.bias": torch.zeros(8)}}, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, four images each to train and two to test."""
    draw, root = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(128 * number, 128 * (number + 1), (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def recipe(checkpoint, images):
    return Recipe.model_validate(
        {
            "data": {"train": None, "unlabeled": str(images / "train"), "workers": 0},
            "teachers": [{"model": "dino-vits16", "weights": str(checkpoint)}],
            "student": STUDENT,
            "losses": [{"loss": "attndistill"}],
            "training": {
                "steps": 2,
                "batch_size": 2,
                "checkpoint_every": 1,
                "keep": 9,
                "ema": 0.5,
                "device": "cpu",
                "precision": "fp32",
            },
            "trackers": ["metrics"],
        }
    )


def test_plan_shows_the_licence_and_what_is_fixed(recipe):
    run_plan = plan(recipe, PLUGINS)
    lines = dict(plan_lines(run_plan))
    assert lines["teacher"].endswith("std 0.229/0.224/0.225; weights apache-2.0")
    assert lines["never trained"] == "1 tensor that the student keeps fixed: pos_embed"
    assert plan_as_dict(run_plan)["student"]["fixed"] == ["pos_embed"]
    assert plan_as_dict(run_plan)["student"]["untrained"] == []


def test_run_does_not_train_fixed_positions_and_notes_the_tensors_left_out(recipe, tmp_path):
    directory = run(recipe, tmp_path / "run", PLUGINS).directory
    torch.manual_seed(recipe.seed)
    initial = PLUGINS.find("student", "deit-ti").call("build", plan(recipe, PLUGINS).student.request).network
    for file in ("student.safetensors", "ema/student.safetensors"):
        weights = load_file(directory / file)
        assert torch.equal(weights["pos_embed"], initial.pos_embed)
        assert not torch.equal(weights["cls_token"], initial.cls_token)
    assert "teacher 'dino-vits16': left out: head" in json.loads((directory / "plan.json").read_text())["notes"]


class StopAt:
    """A KeyboardInterrupt when a step is logged."""

    def __init__(self, step):
        self.step = step

    def distillkit_steps_logged(self, record):
        if record["step"] >= self.step:
            raise KeyboardInterrupt


def test_resuming_with_fixed_positions_is_exact(recipe_of, tmp_path):
    fixed = {"student": {"position": "sincos"}, "training": {"steps": 6, "log_every": 1, "checkpoint_every": 3}}
    run(recipe_of(fixed), tmp_path / "uninterrupted", PLUGINS)
    with pytest.raises(KeyboardInterrupt):
        run(recipe_of(fixed), tmp_path / "stopped", PLUGINS, observers=[StopAt(4)])
    resume(tmp_path / "stopped", PLUGINS)
    uninterrupted, stopped = (
        load_file(tmp_path / name / "student.safetensors") for name in ("uninterrupted", "stopped")
    )
    assert uninterrupted.keys() == stopped.keys()
    assert all(torch.equal(uninterrupted[name], stopped[name]) for name in uninterrupted)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_teacher_without_classes_is_evaluated_by_its_embedding(checkpoint, images, protocol):
    found = evaluate("dino-vits16", PLUGINS, protocol=protocol, data=str(images), weights=str(checkpoint), device="cpu")
    assert any("top1" in name for name in found.measurement.figures)


def test_teacher_without_classes_has_no_top1(checkpoint, images):
    with pytest.raises(SignalError) as error:
        evaluate("dino-vits16", PLUGINS, data=str(images), weights=str(checkpoint), device="cpu")
    assert str(error.value) == (
        "protocol 'top1' reads the logits of a model; 'dino-vits16' is a ViT and reveals embedding, CLS attention, "
        "patch tokens, raw tokens; use --protocol few-label, knn or linear"
    )
