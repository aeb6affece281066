"""A student that sees images of another size than its own, or of any size."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import torch
from timm.layers.format import Format
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distillkit.contracts import Model, ModelSpec
from distillkit.errors import UserError
from distillkit.models import Described, sincos_position_embedding
from distillkit.models.frozen_teacher import spec_at
from distillkit.models.layouts import fit_positions

Size = tuple[int, int]
GROWING = (VisionTransformer, Eva)
"""The networks whose positions timm can stretch inside the forward pass."""


def at_image_size(model: Model, size: Size | None) -> Model:
    """`model` for images of `size`, (height, width); itself where that is its own size or None.

    A network that takes any size stays as it is. One that timm can resize is resized in a copy: learned positions are
    stretched as a student's are that starts from weights of another size, fixed sines and cosines are made anew.
    Raises: UserError for a size that it cannot see.
    """
    spec = model.spec
    if size is None or size == spec.image_size:
        return model
    if spec.flexible_size:
        return Described(model, spec_at(spec, size))
    if not hasattr(model.network, "set_input_size"):
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) sees images of {_shown(spec.image_size)} pixels only; leave "
            f"out --image-size, or train a student of {_shown(size)} pixels"
        )
    _check_patches(spec, size)
    copy = deepcopy(model)
    try:
        _resize(cast("Any", copy.network), size, spec)
        with torch.inference_mode():
            copy.network.eval()(torch.zeros(1, len(spec.mean), *size, device=next(copy.network.parameters()).device))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) cannot see images of {_shown(size)} pixels: {reason}; choose "
            "another --image-size"
        ) from error
    copy.network.train(model.network.training)
    grids = tuple(
        (rows * size[0] // spec.image_size[0], columns * size[1] // spec.image_size[1]) for rows, columns in spec.grids
    )
    parameters = sum(parameter.numel() for parameter in copy.network.parameters())
    return Described(copy, replace(spec, image_size=size, grids=grids, parameters=parameters))


def at_any_size(model: Model) -> Model:
    """A copy of `model` whose network takes images of any height and width that its patches fill.

    Raises: UserError for a network that sees one size only.
    """
    network = cast("Any", model.network)
    spec = model.spec
    if spec.flexible_size:
        return model
    if not isinstance(network, GROWING):
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) sees images of one size only, so height and width cannot be "
            "dynamic; leave out --dynamic-size, or write one file per size with --image-size"
        )
    copy = deepcopy(model)
    network = cast("Any", copy.network)
    network.dynamic_img_size = True
    network.patch_embed.strict_img_size = False
    network.patch_embed.flatten = False
    network.patch_embed.output_fmt = Format.NHWC
    return Described(copy, replace(spec, flexible_size=True))


def _resize(network: Any, size: Size, spec: ModelSpec) -> None:
    """Let timm resize the network, and the positions be as a student's."""
    positions: Tensor | None = getattr(network, "pos_embed", None)
    grid = getattr(network.patch_embed, "grid_size", None)
    network.set_input_size(img_size=size)
    if positions is None or grid is None or positions.dim() != 3:
        return
    new_grid = network.patch_embed.grid_size
    if _is_sincos(positions, grid, spec.prefix_tokens):
        stretched = sincos_position_embedding(positions.shape[-1], new_grid, prefix_tokens=spec.prefix_tokens)
    else:
        stretched = fit_positions({"pos_embed": positions.detach()}, network, spec.name, grid)[0]["pos_embed"]
    network.pos_embed = nn.Parameter(stretched.to(positions), requires_grad=positions.requires_grad)


def _is_sincos(positions: Tensor, grid: Size, prefix_tokens: int) -> bool:
    """Whether positions are the fixed ones, which nobody trains."""
    width = positions.shape[-1]
    if positions.requires_grad or width % 4:
        return False
    fixed = sincos_position_embedding(width, grid, prefix_tokens=prefix_tokens).to(positions)
    return fixed.shape == positions.shape and torch.equal(fixed, positions)


def _check_patches(spec: ModelSpec, size: Size) -> None:
    """Refuse a size that a ViT would cut at its edges without a word."""
    if spec.kind != "vit" or not spec.grids:
        return
    patch = (spec.image_size[0] // spec.grid[0], spec.image_size[1] // spec.grid[1])
    if size[0] % patch[0] or size[1] % patch[1]:
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) cannot see images of {_shown(size)} pixels: its patches of "
            f"{_shown(patch)} do not fill them; choose another --image-size"
        )


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
