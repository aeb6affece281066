"""From the layout of a weight file to the layout of a network.

Two translations: timm's own, for the older layouts of the same weights, and DeiT's, for a student that has another
number of prefix tokens or another image size than the weights it starts from.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.models import is_model, model_entrypoint
from torch import Tensor, nn

from distillkit.models.position_embedding import grid_of, resize_position_embedding

FILTERS = ("checkpoint_filter_fn", "_filter_fn")
"""What timm's modules call the function that renames a published checkpoint."""


def translate(weights: Mapping[str, Tensor], network: nn.Module, architecture: str) -> dict[str, Tensor]:
    """Rename and reshape a published checkpoint as timm does for this architecture; others come back as they are."""
    base = architecture.partition(".")[0]
    if not is_model(base):
        return dict(weights)
    module = sys.modules[model_entrypoint(base).__module__]
    rename = next((getattr(module, name) for name in FILTERS if hasattr(module, name)), None)
    if rename is None:
        return dict(weights)
    arguments: tuple[Any, ...] = (dict(weights), network)
    return dict(rename(*arguments[: len(inspect.signature(rename).parameters)]))


def fit_tokens(weights: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Give weights of DeiT's layout the distillation token that the network has, or take theirs away.

    A new distillation token, its position and, where it fits, its head start as copies of the class token's. Returns
    the weights and a sentence about what was done.
    """
    fitted = dict(weights)
    wanted, given = hasattr(network, "dist_token"), "dist_token" in fitted
    if wanted == given or "cls_token" not in fitted:
        return fitted, ()
    positions = fitted.get("pos_embed") if _prefix_positions(network) else None
    if not wanted:
        fitted = {name: tensor for name, tensor in fitted.items() if not name.startswith(("dist_token", "head_dist."))}
        if positions is not None:
            fitted["pos_embed"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
        return fitted, ("the distillation token, its position and its head were left out",)
    fitted["dist_token"] = fitted["cls_token"].clone()
    if positions is not None:
        fitted["pos_embed"] = torch.cat([positions[:, :1], positions], dim=1)
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
    """Resize the position embedding of a ViT from `grid` to the network's, as the authors of DeiT do.

    Where `grid` is not known it is the network's if the number of patches agrees, else a square one.
    Raises: WeightsError where it can be neither.
    """
    own, given = getattr(network, "pos_embed", None), weights.get("pos_embed")
    new_grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if own is None or given is None or new_grid is None or given.dim() != 3:
        return dict(weights), ()
    if grid is None and given.shape == own.shape:
        return dict(weights), ()
    prefix = _prefix_positions(network)
    patches = given.shape[1] - prefix
    old_grid = grid if grid and grid[0] * grid[1] == patches else grid_of(patches, new_grid, source)
    if old_grid == tuple(new_grid):
        return dict(weights), ()
    resized = resize_position_embedding(given, old_grid=old_grid, new_grid=new_grid, prefix_tokens=prefix)
    note = f"the position embedding was resized from {old_grid[0]}x{old_grid[1]} to {new_grid[0]}x{new_grid[1]} patches"
    return {**weights, "pos_embed": resized}, (note,)


def _prefix_positions(network: nn.Module) -> int:
    """How many prefix tokens have a position of their own."""
    if getattr(network, "no_embed_class", False):
        return 0
    return cast("int", getattr(network, "num_prefix_tokens", 0))
