"""Traits of a timm network: kind, tokens, heads, read from the network itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, cast

from timm.models import get_pretrained_cfg_value
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientformer import EfficientFormer
from timm.models.efficientformer_v2 import EfficientFormerV2
from timm.models.eva import Eva
from timm.models.levit import LevitDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

POOLED_DISTILLED = (LevitDistilled, EfficientFormer, EfficientFormerV2)
"""Networks with two heads on the pooled feature; the two heads of a distilled DeiT read one token each."""


def settings(network: nn.Module) -> Mapping[str, Any]:
    """Settings that timm has for the network's weights: input size, normalisation, classifier, licence."""
    return cast("Mapping[str, Any]", network.pretrained_cfg)


def has_fixed_size(architecture: str) -> bool:
    """Whether the network must be rebuilt for another image size."""
    return bool(get_pretrained_cfg_value(architecture, "fixed_input_size"))


def is_token_network(network: nn.Module) -> bool:
    """Whether every layer is a sequence of tokens behind the same final norm, as in a ViT."""
    method = getattr(network, "forward_intermediates", None)
    return (
        method is not None
        and hasattr(network, "blocks")
        and {"return_prefix_tokens", "norm"} <= set(inspect.signature(method).parameters)
    )


def prefix_tokens(network: nn.Module) -> int:
    """Number of tokens before the patch tokens."""
    return int(getattr(network, "num_prefix_tokens", 0)) if is_token_network(network) else 0


def class_head_reads_class_token(network: nn.Module) -> bool:
    """Whether the class head reads the class token."""
    return prefix_tokens(network) > 0 and getattr(network, "global_pool", "") == "token"


def is_distilled(network: nn.Module) -> bool:
    """Whether the network has a distillation head whose logits `TimmModel` can compute."""
    return isinstance(network, (VisionTransformerDistilled, *POOLED_DISTILLED)) and hasattr(network, "head_dist")


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """Names of the class heads in timm, even if the network was built without them; empty if it is not timm's."""
    names = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def head_modules(network: nn.Module) -> tuple[str, ...]:
    """The sub-modules that depend on the number of classes."""
    names = classifier_names(network)
    if is_distilled(network) and len(names) == 1:  # timm's settings of levit_384_s8 lack the second head
        names += (names[0].replace("head", "head_dist", 1),)
    return names


def kind(network: nn.Module) -> Literal["vit", "cnn", "other"]:
    """Kind of network: "vit" has tokens in every layer, "cnn" convolutions and no attention."""
    if is_token_network(network):
        return "vit"
    kinds = {type(module).__name__ for module in network.modules()}
    # A kernel no larger than its stride only cuts patches, as in an MLP-Mixer: not a convolutional network.
    kernels = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    convolves = any(kernel.kernel_size[0] > kernel.stride[0] for kernel in kernels)
    attends = any("Attention" in name or "Attn" in name for name in kinds)
    return "cnn" if convolves and not attends else "other"


def attention_heads(network: nn.Module) -> int | None:
    """Attention heads per block of a ViT or EVA; None for other networks."""
    if not isinstance(network, (VisionTransformer, Eva)):
        return None
    heads = getattr(getattr(cast("Any", network).blocks[-1], "attn", None), "num_heads", None)
    return None if heads is None else int(heads)
