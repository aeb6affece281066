"""Small students and their exports, shared by all tests of a session because an export takes seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distillkit.contracts.exporter import ExportRequest, Provenance
from distillkit.models.timm_model import TimmModel
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit_export.pipeline.export import ExportResult, export_onnx
from tests.export.small_student import CLASS_NAMES, small_student

PROVENANCE = Provenance(
    model="deit-ti",
    options={"patch": 8, "depth": 2},
    run="tonight",
    recipe_sha256="1" * 64,
    weights_sha256="0" * 64,
    teachers=({"name": "regnety16gf", "licence": "apache-2.0"},),
)


@pytest.fixture(scope="session", autouse=True)
def _quick_exports(onnx_functions_parsed_once) -> None:
    """Many tests here export."""


@pytest.fixture(scope="session")
def plugins() -> PluginRegistry:
    return installed_plugins()


@pytest.fixture(scope="session")
def distilled() -> TimmModel:
    """A DeiT with two heads for images that are not square."""
    return small_student(
        "deit_tiny_distilled_patch16_224", image_size=(32, 48), patch_size=8, depth=2, embed_dim=48, num_heads=3
    )


@pytest.fixture(scope="session")
def plain() -> TimmModel:
    """A ViT with one head."""
    return small_student("vit_tiny_patch16_224", image_size=(40, 40), patch_size=8, depth=1, embed_dim=48, num_heads=3)


@pytest.fixture(scope="session")
def convolutional() -> TimmModel:
    """A CNN with branches that timm folds, for images that are not square, with its own mean and std."""
    torch.manual_seed(0)
    student = TimmModel.create(
        "repvgg_a0", name="student", classes=7, class_names=CLASS_NAMES, image_size=(64, 40)
    ).eval()
    student.spec = replace(student.spec, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))
    return student


class Exports(dict):
    """Exports of every kind of student and output, each created on first access."""

    def __init__(self, folder, requests):
        super().__init__()
        self.folder = folder
        self.requests = requests

    def __missing__(self, kind) -> ExportResult:
        model, request = self.requests[kind]
        self[kind] = export_onnx(model, self.folder / kind, request)
        return self[kind]


@pytest.fixture(scope="session")
def exported(distilled, plain, convolutional, tmp_path_factory) -> Exports:
    requests = {
        "fused": (distilled, ExportRequest(provenance=PROVENANCE)),
        "class": (distilled, ExportRequest(head="class")),
        "distill": (distilled, ExportRequest(head="distill")),
        "softmax": (distilled, ExportRequest(fusion="softmax")),
        "plain": (plain, ExportRequest(head="distill", opset=18)),
        "convolutional": (convolutional, ExportRequest(opset=23)),
    }
    return Exports(tmp_path_factory.mktemp("exports"), requests)
