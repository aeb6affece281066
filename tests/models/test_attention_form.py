"""Attention written out in place of torch's fused function."""

import pytest
import timm
import torch

from distillkit.models.attention_form import MOST_PATCHES, set_attention

CPU, BF16 = torch.device("cpu"), torch.bfloat16
FEW, MANY = ((4, 4),), ((1, MOST_PATCHES + 1),)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()


def is_fused(network):
    return [block.attn.fused_attn for block in network.blocks]


def test_in_bf16_on_a_cpu_it_is_the_same_function(vit):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        fused = vit(images)
        set_attention(vit, "auto", CPU, BF16, FEW)
        assert is_fused(vit) == [False, False]
        torch.testing.assert_close(vit(images), fused, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "precision", "grids"),
    [(CPU, torch.float32, FEW), (torch.device("cuda"), BF16, FEW), (CPU, BF16, MANY)],
    ids=["fp32", "GPU", "many patches"],
)
def test_elsewhere_nothing_changes(vit, device, precision, grids):
    set_attention(vit, "auto", device, precision, grids)
    assert is_fused(vit) == [True, True]


@pytest.mark.parametrize(("form", "fused"), [("fused", True), ("written", False)])
def test_the_recipe_decides(vit, form, fused):
    set_attention(vit, form, CPU, BF16 if form == "fused" else torch.float32, MANY)
    assert is_fused(vit) == [fused, fused]


def test_a_cnn_has_none():
    network = timm.create_model("test_resnet")
    set_attention(network, "written", CPU, BF16, FEW)
    assert not any(hasattr(module, "fused_attn") for module in network.modules())
