"""The published networks that go by names of their own as teachers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """What a name stands for.

    `network` is timm's name of the geometry and the normalisation and, where `elsewhere` is None, of the published
    weights. Otherwise timm knows no such weights: they come from a file, `elsewhere` says where there is one, and
    `architecture` is what plans and errors call the network, so that nothing takes another's weights for its own.
    `licence` is that of the authors' weights, in whatever file they come; None leaves it to timm.
    """

    network: str
    licence: str | None = None
    architecture: str | None = None
    elsewhere: str | None = None


_MUGS = "its authors publish them at github.com/sail-sg/mugs"
_NO_MAE_S = "the authors of MAE (github.com/facebookresearch/mae) publish none of this size"
_APACHE, _NON_COMMERCIAL = "apache-2.0", "cc-by-nc-4.0"

# Networks of the last four are those of others with ImageNet's normalisation and without a class head.
KNOWN = {
    "regnety16gf": Known("regnety_160.deit_in1k"),
    "vit-b": Known("vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    "dino-vits8": Known("vit_small_patch8_224.dino", _APACHE),
    "dino-vits16": Known("vit_small_patch16_224.dino", _APACHE),
    "dino-vitb8": Known("vit_base_patch8_224.dino", _APACHE),
    "dino-vitb16": Known("vit_base_patch16_224.dino", _APACHE),
    "mae-vitb16": Known("vit_base_patch16_224.mae", _NON_COMMERCIAL),
    "mae-vits16": Known("vit_small_patch16_224.dino", None, "ViT-S/16", _NO_MAE_S),
    "mugs-vits16": Known("vit_small_patch16_224.dino", _APACHE, "ViT-S/16", _MUGS),
    "mugs-vitb16": Known("vit_base_patch16_224.dino", _APACHE, "ViT-B/16", _MUGS),
    "mugs-vitl16": Known("vit_large_patch16_224.mae", _APACHE, "ViT-L/16", _MUGS),
}
