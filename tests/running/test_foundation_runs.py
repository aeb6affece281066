"""DINOv3, EVA02 and SigLIP2 as teachers, small and with random weights: plan, run, attention figures and export."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import distillkit
from distillkit.evaluation.attention_files import draw_files
from distillkit.planning.render import plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit_export import ExportOptions, export
from distillkit_plugins.teachers.known import KNOWN

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
TEACHERS = {
    # name: image size, options of the loss, licence that reaches the student
    "dinov3-vits16": (32, {}, ["dinov3-license"]),
    "eva02-s14": (28, {}, []),
    "siglip2-b16": (32, {"attention_weight": 0.0}, []),
}
NOTE = "taught by weights under dinov3-license; check whether its terms extend to the student"


@pytest.fixture
def image(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(4):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", TEACHERS)
def test_end_to_end(tmp_path, image, monkeypatch, name):
    size, options, licences = TEACHERS[name]
    torch.manual_seed(0)
    torch.save(timm.create_model(KNOWN[name].network, **SMALL).state_dict(), tmp_path / "teacher.pth")
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], arguments={**KNOWN[name].arguments, **SMALL}))
    recipe = {
        "data": {"train": None, "unlabeled": str(image.parent), "workers": 0},
        "teachers": [{"model": name, "weights": str(tmp_path / "teacher.pth"), "image_size": size}],
        "student": {"model": "vit-ti", "image_size": 32, "patch": 16, "width": 24, "depth": 1, "heads": 2},
        "losses": [{"loss": "attndistill", **options}],
        "training": {"steps": 2, "batch_size": 2, "device": "cpu", "precision": "fp32"},
        "trackers": ["metrics", "report"],
    }
    planned = distillkit.plan(**recipe)
    assert (NOTE in planned.notes) == bool(licences)
    assert (("note", NOTE) in plan_lines(planned)) == bool(licences)
    result = distillkit.run(out=tmp_path / "run", **recipe)
    directory = result.directory
    assert result.steps == 2
    assert (NOTE in (directory / "report.md").read_text().replace("\\", "")) == bool(licences)
    assert json.loads((directory / "student.json").read_text())["spec"]["taught_under"] == licences
    figures = draw_files(str(directory), [image], installed_plugins(), out=tmp_path / "figures", device="cpu")
    assert len(figures.figures) == 1
    assert bool(figures.notes) == (name == "siglip2-b16")
    if not licences:  # the student is the same
        return
    bundle = export(directory, tmp_path / "bundle", ExportOptions(data=str(image.parent)))
    bundle.require()
    card = json.loads((bundle.directory / "bundle.json").read_text())
    assert card["student"]["taught_under"] == licences
    # A student of this student is taught under the same licences.
    later = recipe | {"teachers": [{"model": f"run:{directory}"}], "losses": [{"loss": "attndistill"}]}
    assert distillkit.plan(**later).student.spec.taught_under == tuple(licences)
