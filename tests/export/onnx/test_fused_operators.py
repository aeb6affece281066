"""Norms and activations are exported as one operator each, which TensorRT and ONNX Runtime compute precisely."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from distillkit.contracts.exporter import ExportRequest
from distillkit_export.from_torch.graph import onnx_graph
from tests.export.small_student import small_student

VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2}
FAMILIES = {
    "deit3_small_patch16_224": {"image_size": (32, 32), **VIT},
    "eva02_tiny_patch14_224": {"image_size": (28, 28), **VIT},
    "swin_tiny_patch4_window7_224": {
        "image_size": (28, 28), "depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2)
    },
    "convnext_atto": {"image_size": (32, 32), "depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
}  # fmt: skip


def module_calls(model):
    """How often torch calls each kind of module for one image."""
    calls: Counter[str] = Counter()
    for module in model.network.modules():
        kind = "LayerNorm" if isinstance(module, nn.LayerNorm) else type(module).__name__  # timm has its own GELU
        module.register_forward_hook(lambda *_, kind=kind: calls.update([kind]))
    with torch.inference_mode():
        model.network.eval()(torch.zeros(1, 3, *model.spec.image_size))
    return calls


def operators(model, **asked):
    return Counter(node.op_type for node in onnx_graph(model, ExportRequest(**asked)).graph.node)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_norm_and_gelu_is_one_operator(architecture):
    model = small_student(architecture, **FAMILIES[architecture])
    written, calls = operators(model), module_calls(model)
    assert calls["LayerNorm"] > 0
    assert written["LayerNormalization"] == calls["LayerNorm"]
    assert written["Gelu"] == calls["GELU"]


def test_gelu_is_decomposed_in_an_opset_without_it(plain):
    written = operators(plain, opset=19)
    assert (written["LayerNormalization"], written["Gelu"], written["Erf"]) == (3, 0, 1)
