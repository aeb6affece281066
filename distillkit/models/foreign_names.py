"""Names of torchvision and transformers for the tensors of ViT, DeiT and ResNet, converted to timm's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameLayout:
    """Names of another library: `marker` is one that only this layout has; `rules` rewrite the start of a name."""

    library: str
    marker: str
    rules: Rules


TRANSFORMERS_VIT = NameLayout(
    "transformers",
    "embeddings.patch_embeddings.projection.weight",
    (
        (r"embeddings\.cls_token$", "cls_token"),
        (r"embeddings\.distillation_token$", "dist_token"),
        (r"embeddings\.position_embeddings$", "pos_embed"),
        (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.attention\.(query|key|value)\.", r"blocks.\1.attn.\2."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.q_proj\.", r"blocks.\1.attn.query."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.k_proj\.", r"blocks.\1.attn.key."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.v_proj\.", r"blocks.\1.attn.value."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
        (r"(?:encoder\.layer|layers)\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
        (r"layernorm\.", "norm."),
        (r"(?:cls_)?classifier\.", "head."),
        (r"distillation_classifier\.", "head_dist."),
    ),
)
TORCHVISION_VIT = NameLayout(
    "torchvision",
    "encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
    (
        (r"class_token$", "cls_token"),
        (r"encoder\.pos_embedding$", "pos_embed"),
        (r"conv_proj\.", "patch_embed.proj."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.", r"blocks.\1.mlp.fc1."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.", r"blocks.\1.mlp.fc2."),
        (r"encoder\.ln\.", "norm."),
        (r"heads\.head\.", "head."),
    ),
)
TRANSFORMERS_RESNET = NameLayout(
    "transformers",
    "embedder.embedder.convolution.weight",
    (
        (r"embedder\.embedder\.convolution\.", "conv1."),
        (r"embedder\.embedder\.normalization\.", "bn1."),
        (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.", r"layer{\1}.\2.conv{\3}."),
        (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.", r"layer{\1}.\2.bn{\3}."),
        (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.", r"layer{\1}.\2.downsample.0."),
        (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.", r"layer{\1}.\2.downsample.1."),
        (r"classifier\.1\.", "fc."),
    ),
)
"""`{\\1}` stands for the number plus one: timm counts layers and convolutions from 1."""
LAYOUTS = (TRANSFORMERS_VIT, TORCHVISION_VIT, TRANSFORMERS_RESNET)

UNUSED = ("pooler.", "embeddings.mask_token")
"""Parts of transformers' models that a classifier does not use."""
PARTS = ("query", "key", "value")


def in_timm_names(weights: Mapping[str, Tensor], known: Collection[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights with timm's names, and notes, if they have those of another library that the network does not have.

    Query, key and value of transformers become one tensor. Shapes: three of [D, D] or [D] become [3D, D] or [3D].
    """
    found = next(((layout, name) for layout in LAYOUTS if (name := _marked(layout, weights))), None)
    if found is None or _marked(found[0], known):
        return dict(weights), ()
    layout, marker = found
    prefix = marker.removesuffix(layout.marker)
    # The heads are outside the part that has the prefix: vit.layernorm.weight, but classifier.weight.
    outer = "".join(prefix.removesuffix(".").rpartition(".")[:2])
    renamed, unused = {}, set[str]()
    for name, tensor in weights.items():
        inner = name.removeprefix(prefix if name.startswith(prefix) else outer)
        if inner.startswith(UNUSED):
            unused.add(inner.partition(".")[2] if inner.startswith("embeddings.") else inner.partition(".")[0])
        else:
            renamed[_renamed(inner, layout.rules)] = tensor
    notes = (f"converted from the names of {layout.library}", *(f"left out: {name}" for name in sorted(unused)))
    return _with_joined_projections(renamed), notes


def _marked(layout: NameLayout, names: Iterable[str]) -> str | None:
    """The name that ends with the layout's marker, with any prefix."""
    return next((name for name in names if name == layout.marker or name.endswith(f".{layout.marker}")), None)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        new, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return re.sub(r"\{(\d+)\}", lambda number: str(int(number[1]) + 1), new)
    return name


def _with_joined_projections(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with attn.query, attn.key and attn.value joined as attn.qkv, where all three are there."""
    joined = dict(weights)
    for name in weights:
        start, middle, kind = name.partition(".attn.query.")
        names = [f"{start}.attn.{part}.{kind}" for part in PARTS]
        if middle and all(each in joined for each in names):
            joined[f"{start}.attn.qkv.{kind}"] = torch.cat([joined.pop(each) for each in names])
    return joined
