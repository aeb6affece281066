"""Patch and image size of a ViT that a weight file was trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from distillkit.models.foreign_names import in_timm_names
from distillkit.models.network_names import names_of_network
from distillkit.models.timm_traits import settings

if TYPE_CHECKING:
    from torch import Tensor

    from distillkit.contracts.model import ImageSize, Model


@dataclass(frozen=True)
class FileGeometry:
    """Patch and image size (height, width) in pixels that weights need; None where they are the model's own."""

    patch: ImageSize | None = None
    image_size: ImageSize | None = None

    @property
    def note(self) -> str | None:
        """A sentence on what differs from the model's name, None if nothing does."""
        facts = (("images", self.image_size), ("patches", self.patch))
        shown = [f"{what} of {size[0]}x{size[1]} pixels" for what, size in facts if size is not None]
        return f"built for {' and '.join(shown)}, as its weights are" if shown else None


def geometry_of(weights: Mapping[str, Tensor], model: Model) -> FileGeometry:
    """Patch and image size of ViT weights, from the shapes of the patch and the position embedding.

    The grid is assumed to be square. Nothing is returned for other networks, or where the number of positions is not
    that of a square grid: loading such weights says what does not fit.
    Shapes: patch_embed.proj.weight [D, 3, p, p], pos_embed [1, P + N, D] with P prefix tokens.
    """
    network: Any = model.network
    embedding: Any = getattr(network, "patch_embed", None)
    known = network.state_dict().keys()
    given = names_of_network(in_timm_names(weights, known)[0], known)
    projection, positions = given.get("patch_embed.proj.weight"), given.get("pos_embed")
    is_resizable = hasattr(embedding, "grid_size") and settings(network).get("fixed_input_size", False)
    if not is_resizable or projection is None or projection.dim() != 4:
        return FileGeometry()
    own, patch = tuple(embedding.patch_size), cast("ImageSize", tuple(projection.shape[2:]))
    size = _image_size(network, positions, patch)
    return FileGeometry(patch if patch != own else None, size if size != model.spec.image_size else None)


def _image_size(network: Any, positions: Tensor | None, patch: ImageSize) -> ImageSize | None:
    """Image size of a position embedding [1, P + N, D], None if its grid is unknown or the network's own."""
    if positions is None or positions.dim() != 3 or getattr(network, "pos_embed", None) is None:
        return None
    prefix = 0 if getattr(network, "no_embed_class", False) else network.num_prefix_tokens
    patches = positions.shape[1] - prefix
    rows, columns = network.patch_embed.grid_size
    if patches != rows * columns:
        rows = columns = math.isqrt(max(patches, 0))
    return (rows * patch[0], columns * patch[1]) if patches > 0 and rows * columns == patches else None
