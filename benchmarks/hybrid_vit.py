"""A hybrid ViT for 32-pixel images as a model of timm: the stages of a CIFAR ResNet-20 embed the patches.

A plain ViT needs hours on a CPU to become a teacher worth learning from. Of this one, the convolutions start from
published weights, and the transformer is trained in minutes. Importing this module registers it, as `timm:NAME`.
Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1, "Hybrid Architecture".
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.layers import HybridEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from distillkit.models import read_weights
from distillkit_plugins.teachers.cifar_resnet import BLOCKS, CLASS_NAMES, CifarResNet

NAME = "vit_hybrid_resnet20_32"
GEOMETRY = {"img_size": 32, "patch_size": 1, "embed_dim": 96, "depth": 4, "num_heads": 4}
"""8 x 8 patches of 4 pixels: the grid of the ResNet's last stage, one patch per place."""

default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "input_size": (3, 32, 32),
            "fixed_input_size": True,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "classifier": "head",
        }
    }
)


class Trunk(CifarResNet):
    """The stages of a ResNet-20. Shapes: images [B, 3, 32, 32] -> [B, 64, 8, 8]."""

    def __init__(self) -> None:
        super().__init__(BLOCKS["cifar-resnet20"], len(CLASS_NAMES))
        del self.linear

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.stages(images)[-1])


@register_model
def vit_hybrid_resnet20_32(pretrained: bool = False, **arguments: Any) -> VisionTransformer:  # noqa: FBT001, FBT002 - timm's
    """The network, under the signature of timm's models."""
    embed = partial(HybridEmbed, backbone=Trunk())
    network: VisionTransformer = build_model_with_cfg(
        VisionTransformer, NAME, pretrained, **{**GEOMETRY, "embed_layer": embed, **arguments}
    )
    return network


def save_initial_weights(resnet20: Path, file: Path) -> None:
    """Save weights to start from: the convolutions from the file of a ResNet-20, the rest random from seed 0."""
    torch.manual_seed(0)
    network = vit_hybrid_resnet20_32(num_classes=len(CLASS_NAMES))
    weights = {name.removeprefix("module."): values for name, values in read_weights(resnet20).items()}
    trunk = {name: values for name, values in weights.items() if not name.startswith("linear.")}
    network.patch_embed.backbone.load_state_dict(trunk)
    save_file(network.state_dict(), file)
