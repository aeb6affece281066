"""DeiT's vision transformers as students, with or without distillation token, in any geometry."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from distillkit import ModelRequest, ModelSpec, RecipeError
from distillkit.models import TimmModel, licensed, nearest_multiples, sincos_position_embedding, start_from
from distillkit_plugins.students.options import DEPTH, DeitOptions

ARCHITECTURES = {
    "deit-ti": "deit_tiny_distilled_patch16_224",
    "deit-s": "deit_small_distilled_patch16_224",
    "deit-b": "deit_base_distilled_patch16_224",
    "vit-ti": "deit_tiny_patch16_224",
    "vit-s": "deit_small_patch16_224",
    "vit-b": "deit_base_patch16_224",
}
WIDTH_AND_HEADS = {"ti": (192, 3), "s": (384, 6), "b": (768, 12)}
POSITIONS = "pos_embed"


class Deit:
    """`deit-ti`, `deit-s`, `deit-b` with class and distillation token; `vit-ti`, `vit-s`, `vit-b` with class token.

    Initialised as in DeiT: truncated normal with standard deviation 0.02 for linear layers, tokens and position
    embedding; zero biases.
    Source: Touvron et al. 2021, arXiv:2012.12877, sections 4 and 5.1 and Table 1; the networks are timm's.
    Differs: timm initialises the class token with standard deviation 1e-6; here it is 0.02, as in the authors' code.
    """

    Options = DeitOptions

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student.

        Raises: RecipeError if the patch does not divide the image size, or the heads the width.
        """
        spec = TimmModel.describe(ARCHITECTURES[request.name], name=request.name, **_arguments(request))
        return licensed(spec, request.weights)

    @classmethod
    def build(cls, request: ModelRequest) -> TimmModel:
        """Build the student under torch's current seed, and load its starting weights, if any.

        Raises: as `describe`; WeightsError, RunDirectoryError for weights that do not fit.
        """
        model = TimmModel.create(ARCHITECTURES[request.name], name=request.name, **_arguments(request))
        nn.init.trunc_normal_(cast("nn.Parameter", model.network.cls_token), std=0.02)
        model.spec = licensed(model.spec, request.weights)
        is_fixed = request.options.position == "sincos"
        if is_fixed:
            _fix_positions(model)
        model.load_report = start_from(model, request.weights, keep=(POSITIONS,) if is_fixed else ())
        return model


def _fix_positions(model: TimmModel) -> None:
    """Replace the learned position embedding [1, P + N, D] by fixed sines and cosines.

    It stays an ordinary parameter of timm's network, without gradient, so that timm can load the saved weights.
    """
    positions, spec = model.network.get_parameter(POSITIONS), model.spec
    with torch.no_grad():
        positions.copy_(sincos_position_embedding(spec.width, spec.grid, prefix_tokens=spec.prefix_tokens))
    positions.requires_grad_(False)


def _arguments(request: ModelRequest) -> dict[str, Any]:
    """Options of the student under the argument names of timm and `TimmModel`.

    Dropout acts where DeiT's --drop does (timm 0.3.2): after the position embedding and in both projections of a block,
    not in the attention and not before the heads.
    """
    options = cast("DeitOptions", request.options)
    default_width, default_heads = WIDTH_AND_HEADS[request.name.partition("-")[2]]
    width, heads = options.width or default_width, options.heads or default_heads
    _check(options, width, heads)
    overrides: dict[str, Any] = {
        "patch_size": (options.patch, 16),
        "embed_dim": (width, default_width),
        "depth": (options.depth, DEPTH),
        "num_heads": (heads, default_heads),
        "drop_path_rate": (options.drop_path, 0.0),
        "pos_drop_rate": (options.dropout, 0.0),
        "proj_drop_rate": (options.dropout, 0.0),
    }
    requested = {"classes": request.classes, "class_names": request.class_names, "image_size": options.image_size}
    return requested | {name: value for name, (value, default) in overrides.items() if value != default}


def _check(options: DeitOptions, width: int, heads: int) -> None:
    height, columns = options.image_size
    wrong = next((side for side in (height, columns) if side % options.patch), None)
    if wrong is not None:
        shown = height if height == columns else [height, columns]
        raise RecipeError(
            f"student.image_size = {shown} is not divisible by student.patch = {options.patch}; "
            f"{nearest_multiples(wrong, options.patch)} would be"
        )
    # A quarter of the width each for sine and cosine of row and column.
    if options.position == "sincos" and width % 4:
        raise RecipeError(
            f'student.width = {width} is not divisible by 4, which student.position = "sincos" requires; '
            f"{nearest_multiples(width, 4)} would be"
        )
    if width % heads:
        raise RecipeError(
            f"student.width = {width} is not divisible by student.heads = {heads}; "
            f"{nearest_multiples(width, heads)} would be"
        )
