"""Published networks that have a teacher name of their own, such as `dino-vits16`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownTeacher:
    """Network, weights and licence of a named teacher.

    `network` is timm's name for the geometry, the normalisation and, if `file_source` is None, the published weights.
    Otherwise timm has no such weights: they come from a file, and `file_source` says where to find one. `architecture`
    is then the name in plans and errors, since `network` would name other weights.
    `licence` is that of the authors' weights, from any file; None means the licence that timm states.
    """

    network: str
    licence: str | None = None
    architecture: str | None = None
    file_source: str | None = None


_MUGS = "its authors publish them at github.com/sail-sg/mugs"
_NO_MAE_S = "the authors of MAE (github.com/facebookresearch/mae) publish no weights of this size"
_APACHE, _NON_COMMERCIAL = "apache-2.0", "cc-by-nc-4.0"

# The last four use the network of other weights with the same geometry, ImageNet's normalisation and no class head.
KNOWN = {
    "regnety16gf": KnownTeacher("regnety_160.deit_in1k"),
    "vit-b": KnownTeacher("vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    "dino-vits8": KnownTeacher("vit_small_patch8_224.dino", _APACHE),
    "dino-vits16": KnownTeacher("vit_small_patch16_224.dino", _APACHE),
    "dino-vitb8": KnownTeacher("vit_base_patch8_224.dino", _APACHE),
    "dino-vitb16": KnownTeacher("vit_base_patch16_224.dino", _APACHE),
    "mae-vitb16": KnownTeacher("vit_base_patch16_224.mae", _NON_COMMERCIAL),
    "mae-vits16": KnownTeacher("vit_small_patch16_224.dino", None, "ViT-S/16", _NO_MAE_S),
    "mugs-vits16": KnownTeacher("vit_small_patch16_224.dino", _APACHE, "ViT-S/16", _MUGS),
    "mugs-vitb16": KnownTeacher("vit_base_patch16_224.dino", _APACHE, "ViT-B/16", _MUGS),
    "mugs-vitl16": KnownTeacher("vit_large_patch16_224.mae", _APACHE, "ViT-L/16", _MUGS),
}
