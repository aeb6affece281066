"""Change a student's input image size before export, or make it dynamic."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import MethodType
from typing import Any, cast

import torch
from timm.layers.format import Format
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distillkit.contracts.exporter import side_multiples
from distillkit.contracts.model import ImageSize, Model, ModelSpec
from distillkit.errors import UserError
from distillkit.messages.text import first_line
from distillkit.models import Described, resize_position_embedding, sincos_position_embedding
from distillkit.models.checkpoint_conversion import fit_positions
from distillkit.models.teacher_size import spec_at

DYNAMIC_POSITIONS = (VisionTransformer, Eva)
"""Networks whose position embedding can be resized inside the forward pass, unless it is rotary."""
LARGEST_SIDE = 16_384
"""Limit on a dynamic height or width, in pixels. Not written into the graph, but sin-cos positions end there."""


def at_image_size(model: Model, size: ImageSize | None) -> Model:
    """`model` for images of `size` (height, width); `model` itself if `size` is None or already its image size.

    A network that accepts any size is not changed. Otherwise timm resizes a copy: learned positions are interpolated
    as when a student starts from weights of another image size, sin-cos positions are recomputed.
    Raises: UserError for an unsupported size.
    """
    spec = model.spec
    if size is None or size == spec.image_size:
        return model
    if spec.flexible_size:
        return Described(model, spec_at(spec, size))
    if not hasattr(model.network, "set_input_size"):
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) accepts only {_shown(spec.image_size)} images; leave out "
            f"--image-size, or train a student at {_shown(size)}"
        )
    _check_patches(spec, size)
    copy = deepcopy(model)
    try:
        _resize(cast("Any", copy.network), size, spec)
        with torch.inference_mode():
            copy.network.eval()(torch.zeros(1, len(spec.mean), *size, device=next(copy.network.parameters()).device))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) cannot run on {_shown(size)} images: "
            f"{first_line(error)}; choose another --image-size"
        ) from error
    copy.network.train(model.network.training)
    grids = tuple(
        (rows * size[0] // spec.image_size[0], columns * size[1] // spec.image_size[1]) for rows, columns in spec.grids
    )
    parameters = sum(parameter.numel() for parameter in copy.network.parameters())
    return Described(copy, replace(spec, image_size=size, grids=grids, parameters=parameters))


def at_any_size(model: Model) -> Model:
    """A copy of `model` for images of any height and width that are multiples of its patch size.

    At every size it computes what `at_image_size` would.
    Raises: UserError for a network with a fixed image size.
    """
    spec = model.spec
    copy = deepcopy(model)
    if spec.flexible_size:
        return copy
    network: Any = copy.network
    is_resizable = isinstance(network, DYNAMIC_POSITIONS) and getattr(network, "rope", None) is None
    if not is_resizable:
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) has a fixed image size, so height and width cannot be dynamic; "
            "leave out --dynamic-size, or export one file per size with --image-size"
        )
    network.patch_embed.strict_img_size = False
    network.patch_embed.flatten = False
    network.patch_embed.output_fmt = Format.NHWC
    if _is_sincos(network.pos_embed, network.patch_embed.grid_size, spec.prefix_tokens):
        network.fixed_positions = FixedPositions(network.embed_dim, spec.prefix_tokens, side_multiples(spec))
    # A bound method: deepcopy of the network then rebinds it to the copy, which a closure would not.
    network._pos_embed = MethodType(_add_positions, network)  # noqa: SLF001 - timm offers no other way
    return Described(copy, replace(spec, flexible_size=True))


class FixedPositions(nn.Module):
    """Sin-cos position embedding of any grid up to `LARGEST_SIDE`: one table per axis, from float64, kept in float32.

    Shapes: a grid (rows, columns) to positions [1, P + N, D], with P prefix tokens.
    """

    of_row: Tensor
    of_column: Tensor

    def __init__(self, width: int, prefix_tokens: int, patch: ImageSize) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        rows, columns = LARGEST_SIDE // patch[0], LARGEST_SIDE // patch[1]
        down = sincos_position_embedding(width, (rows, 1), prefix_tokens=0)[0, :, width // 2 :]
        across = sincos_position_embedding(width, (1, columns), prefix_tokens=0)[0, :, : width // 2]
        self.register_buffer("of_row", down.clone(), persistent=False)
        self.register_buffer("of_column", across.clone(), persistent=False)

    def forward(self, grid: ImageSize) -> Tensor:
        """Positions [1, P + N, D] of a grid (rows, columns), N = rows * columns."""
        rows, columns = grid
        across = self.of_column[:columns].unsqueeze(0).expand(rows, -1, -1)  # [rows, columns, D / 2]
        down = self.of_row[:rows].unsqueeze(1).expand(-1, columns, -1)  # [rows, columns, D / 2]
        patches = torch.cat([across, down], dim=2).flatten(0, 1)  # [N, D]
        prefix = patches.new_zeros(self.prefix_tokens, patches.shape[-1])  # [P, D]
        return torch.cat([prefix, patches]).unsqueeze(0)  # [1, P + N, D]


class Overlay:
    """A view of a module with some attributes replaced; the module itself is not changed."""

    def __init__(self, module: nn.Module, **values: Any) -> None:
        self.__dict__.update(values)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _add_positions(network: Any, patches: Tensor) -> Any:
    """The network's `_pos_embed`, from patches [B, h, w, D] to tokens [B, P + N, D], with positions for this grid."""
    grid = (patches.shape[1], patches.shape[2])
    positions: Tensor | None = network.pos_embed
    if hasattr(network, "fixed_positions"):
        positions = network.fixed_positions(grid)
    elif positions is not None:
        prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        positions = resize_position_embedding(
            positions, old_grid=network.patch_embed.grid_size, new_grid=grid, prefix_tokens=prefix
        )
    resized = Overlay(network, pos_embed=positions, dynamic_img_size=False)
    return type(network)._pos_embed(resized, patches.flatten(1, 2))  # noqa: SLF001 - see above; [B, N, D]


def _resize(network: Any, size: ImageSize, spec: ModelSpec) -> None:
    """Let timm resize the network, then replace its positions by those that a student of this size would start from."""
    positions: Tensor | None = getattr(network, "pos_embed", None)
    grid = getattr(network.patch_embed, "grid_size", None)
    network.set_input_size(img_size=size)
    if positions is None or grid is None or positions.dim() != 3:
        return
    new_grid = network.patch_embed.grid_size
    if _is_sincos(positions, grid, spec.prefix_tokens):
        stretched = sincos_position_embedding(positions.shape[-1], new_grid, prefix_tokens=spec.prefix_tokens)
    else:
        own = network.state_dict() | {"pos_embed": positions.detach()}
        stretched = fit_positions(own, network, spec.name, grid)[0]["pos_embed"]
    network.pos_embed = nn.Parameter(stretched.to(positions), requires_grad=positions.requires_grad)


def _is_sincos(positions: Tensor | None, grid: ImageSize, prefix_tokens: int) -> bool:
    """Whether positions [1, P + N, D] are the fixed sin-cos ones."""
    if positions is None or positions.requires_grad or positions.shape[-1] % 4:
        return False
    width = positions.shape[-1]
    fixed = sincos_position_embedding(width, grid, prefix_tokens=prefix_tokens).to(positions)
    return fixed.shape == positions.shape and torch.equal(fixed, positions)


def _check_patches(spec: ModelSpec, size: ImageSize) -> None:
    """Refuse a size that is not a multiple of the patch: a ViT would silently crop the edges."""
    if spec.kind != "vit" or not spec.grids:
        return
    patch = (spec.image_size[0] // spec.grid[0], spec.image_size[1] // spec.grid[1])
    if size[0] % patch[0] or size[1] % patch[1]:
        raise UserError(
            f"model '{spec.name}' ({spec.architecture}) cannot run on {_shown(size)} images: they are not a multiple "
            f"of its {_shown(patch)} patches; choose another --image-size"
        )


def _shown(size: ImageSize) -> str:
    return f"{size[0]}x{size[1]}"
