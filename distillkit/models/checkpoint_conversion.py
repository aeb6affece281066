"""Convert the weights of a checkpoint to the layout of a network.

timm's conversion renames older layouts of the same weights. DeiT's fits the prefix tokens and the position embedding of
a student that differs in them from the weights it starts from.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from timm.models import create_model, is_model, model_entrypoint
from torch import Tensor, nn

from distillkit.models.meta_device import sketching
from distillkit.models.position_embedding import grid_of, resize_position_embedding

FILTERS = ("checkpoint_filter_fn", "_filter_fn")
"""Names of the function in timm's model modules that converts a published checkpoint."""


def translate(weights: Mapping[str, Tensor], network: nn.Module, architecture: str) -> dict[str, Tensor]:
    """Convert a published checkpoint as timm does for this architecture; return it unchanged if timm has no conversion.

    Shapes: weights of any shape.
    """
    base = architecture.partition(".")[0]
    if not is_model(base):
        return dict(weights)
    # timm does not export its filters; they are functions in the module of the model.
    module = sys.modules[model_entrypoint(base).__module__]
    rename = next((getattr(module, name) for name in FILTERS if hasattr(module, name)), None)
    if rename is None:
        return dict(weights)
    # Some of timm's filters have the parameters (state_dict, model), others the state dict alone.
    arguments: tuple[Any, ...] = (dict(weights), network)
    bilinear = {"interpolation": "bilinear", "antialias": False} if _interpolation(network) == "bilinear" else {}
    renamed = rename(*arguments[: len(inspect.signature(rename).parameters)], **bilinear)
    return _with_norm_before_pooling(renamed, network, base)


def _interpolation(network: nn.Module) -> Literal["bicubic", "bilinear"]:
    """How the position embedding is resized: bilinear for C-RADIO, as its authors and timm do; else bicubic."""
    is_radio = "radio" in getattr(network, "pretrained_cfg", {}).get("architecture", "")
    return "bilinear" if is_radio else "bicubic"


def _with_norm_before_pooling(weights: Mapping[str, Tensor], network: nn.Module, base: str) -> dict[str, Tensor]:
    """The weights with the final norm under the network's name: timm's `fc_norm` of a ViT that pools its patches.

    A network that reads the class token has the same norm before the pooling, as `norm`. Only for architectures that
    timm builds with `fc_norm`, such as DINOv3: the file of another one was trained with another pooling.
    """
    own = network.state_dict()
    if "norm.weight" not in own or "fc_norm.weight" in own or "norm.weight" in weights:
        return dict(weights)
    with sketching():
        if "fc_norm.weight" not in create_model(base).state_dict():
            return dict(weights)
    return {name.removeprefix("fc_") if name.startswith("fc_norm.") else name: weights[name] for name in weights}


def separate_registers(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of a DINOv2 with registers in timm's layout: the class token's position is added to the token.

    timm converts them too, but would resize the position embedding in its own way at the same time.
    Shapes: cls_token [1, 1, D], register_tokens [1, R, D], pos_embed [1, 1 + N, D] to [1, N, D].
    """
    names = ("register_tokens", "cls_token", "pos_embed")
    if not getattr(network, "no_embed_class", False) or not all(name in weights for name in names):
        return dict(weights)
    registers, token, positions = (weights[name] for name in names)
    rest = {name: tensor for name, tensor in weights.items() if name not in names}
    return rest | {"reg_token": registers, "cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}


def fit_tokens(weights: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Add the distillation token that the network has to weights in DeiT's layout, or remove the weights' own.

    A new distillation token, its position and, if it fits, its head start as copies of the class token's. Returns the
    weights and a note on what changed.
    Shapes: cls_token and dist_token [1, 1, D], pos_embed [1, P + N, D] with P prefix tokens; heads [K, D].
    """
    fitted = dict(weights)
    is_distilled, has_token = hasattr(network, "dist_token"), "dist_token" in fitted
    if is_distilled == has_token or "cls_token" not in fitted:
        return fitted, ()
    positions = fitted.get("pos_embed") if _prefix_positions(network) else None
    if not is_distilled:
        fitted = {name: tensor for name, tensor in fitted.items() if not name.startswith(("dist_token", "head_dist."))}
        if positions is not None:
            fitted["pos_embed"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)  # [1, 1 + N, D]
        return fitted, ("the distillation token, its position and its head were left out",)
    fitted["dist_token"] = fitted["cls_token"].clone()
    if positions is not None:
        fitted["pos_embed"] = torch.cat([positions[:, :1], positions], dim=1)  # [1, 2 + N, D]
    note = "the distillation token and its position start as copies of the class token's"
    heads = {f"head_dist.{name}": fitted.get(f"head.{name}") for name in ("weight", "bias")}
    own = network.state_dict()
    if all(head is not None and head.shape == own[name].shape for name, head in heads.items()):
        fitted |= {name: head.clone() for name, head in heads.items() if head is not None}
        note += ", its head as a copy of the class head"
    return fitted, (note,)


def fit_positions(
    weights: Mapping[str, Tensor], network: nn.Module, source: str, grid: tuple[int, int] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Resize a ViT's position embedding from `grid` to the network's grid, as the authors of DeiT do.

    Without `grid`, the network's grid is assumed if the number of patches agrees, else a square grid.
    Shapes: pos_embed [1, P + h*w, D] to [1, P + h'*w', D], with P prefix tokens.
    Raises: WeightsError if the number of patches fits neither.
    """
    own, given = getattr(network, "pos_embed", None), weights.get("pos_embed")
    new_grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if own is None or given is None or new_grid is None or given.dim() != 3:
        return dict(weights), ()
    if grid is None and given.shape == own.shape:
        return dict(weights), ()
    # Without the class token of the network, or with one that it has not, the number of patches is not known; the
    # error about the tensors that do not fit names the token.
    if ("cls_token" in weights) != (getattr(network, "cls_token", None) is not None):
        return dict(weights), ()
    # Without the origin's grid, equal counts count as equal grids; with it, 2x8 patches are still resized to 4x4.
    prefix = _prefix_positions(network)
    patches = given.shape[1] - prefix
    old_grid = grid if grid and grid[0] * grid[1] == patches else grid_of(patches, new_grid, source)
    if old_grid == tuple(new_grid):
        return dict(weights), ()
    resized = resize_position_embedding(
        given, old_grid=old_grid, new_grid=new_grid, prefix_tokens=prefix, mode=_interpolation(network)
    )
    note = f"the position embedding was resized from {old_grid[0]}x{old_grid[1]} to {new_grid[0]}x{new_grid[1]} patches"
    return {**weights, "pos_embed": resized}, (note,)


def _prefix_positions(network: nn.Module) -> int:
    """Number of prefix tokens in the position embedding."""
    if getattr(network, "no_embed_class", False):
        return 0
    return cast("int", getattr(network, "num_prefix_tokens", 0))
