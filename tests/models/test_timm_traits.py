"""Traits of networks: kind and attention heads."""

import pytest
import timm
import torch
from torch import nn

from distillkit.models.timm_traits import attention_heads, kind


class WindowAttention(nn.Module):
    """A module that counts as attention by its name."""


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([nn.Conv2d(3, 4, kernel_size=3, stride=2)], "cnn"),
        ([nn.Conv2d(3, 4, kernel_size=4, stride=4), nn.Conv2d(4, 4, kernel_size=3)], "cnn"),
        ([nn.Conv2d(3, 4, kernel_size=3), WindowAttention()], "other"),
        ([nn.Conv2d(3, 4, kernel_size=4, stride=4), nn.Linear(4, 4)], "other"),
        ([nn.Linear(4, 4)], "other"),
    ],
    ids=["convolution", "patches and convolution", "convolution and attention", "patches", "no convolution"],
)
def test_cnn_has_overlapping_kernels_and_no_attention(modules: list[nn.Module], expected: str) -> None:
    assert kind(nn.Sequential(*modules)) == expected


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("vit_tiny_patch16_224", ("vit", 3)),
        ("eva02_tiny_patch14_224", ("vit", 3)),
        ("swin_tiny_patch4_window7_224", ("other", None)),
        ("mixer_s32_224", ("other", None)),
        ("resnet18", ("cnn", None)),
    ],
)
def test_kind_and_heads_of_timm_networks(architecture: str, expected: tuple[str, int | None]) -> None:
    with torch.device("meta"):
        network = timm.create_model(architecture)
    assert (kind(network), attention_heads(network)) == expected
