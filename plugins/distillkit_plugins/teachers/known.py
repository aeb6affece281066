"""Published networks that have a teacher name of their own, such as `dino-vits16`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class KnownTeacher:
    """Network, weights and licence of a named teacher.

    `network` is timm's name for the geometry, the normalisation and, if `file_source` is None, the published weights.
    Otherwise timm has no such weights: they come from a file, and `file_source` says where to find one. `architecture`
    is then the name in plans and errors, since `network` would name other weights.
    `licence` is that of the authors' weights, from any file; None means the licence that timm states.
    `image_size` is the default (height, width), where another one than timm's is sensible. `arguments` are those of
    `timm.create_model`. `classes` is 0 where timm's head is a projection and has no classes. `with_biases` is the
    network for files that have biases of query, key and value, where `network` has none.
    """

    network: str
    licence: str | None = None
    architecture: str | None = None
    file_source: str | None = None
    image_size: tuple[int, int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    classes: int | None = None
    with_biases: str | None = None


def _dinov2(network: str) -> KnownTeacher:
    # timm builds it for 518 pixels, as it was trained last; at 224 it has the 16x16 patches of most students.
    return KnownTeacher(f"{network}_dinov2.lvd142m", _APACHE, image_size=(224, 224))


def _dinov3(network: str) -> KnownTeacher:
    # timm pools the patches of these networks; their authors use the class token.
    return KnownTeacher(
        f"{network}_dinov3.lvd1689m",
        _DINOV3,
        arguments=_CLASS_TOKEN,
        with_biases=f"{network}_dinov3_qkvb.lvd1689m",
    )


_MUGS = "its authors publish them at github.com/sail-sg/mugs"
_NO_MAE_S = "the authors of MAE (github.com/facebookresearch/mae) publish no weights of this size"
_APACHE, _MIT, _NON_COMMERCIAL = "apache-2.0", "mit", "cc-by-nc-4.0"
_DINOV3, _NVIDIA = "dinov3-license", "nvidia-open-model-license"
_CLASS_TOKEN = {"global_pool": "token"}

# mae-vits16 and Mugs use the network of other weights with the same geometry, ImageNet's normalisation and no classes.
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
    "dinov2-vits14": _dinov2("vit_small_patch14"),
    "dinov2-vitb14": _dinov2("vit_base_patch14"),
    "dinov2-vitl14": _dinov2("vit_large_patch14"),
    "dinov2-vits14-reg": _dinov2("vit_small_patch14_reg4"),
    "dinov2-vitb14-reg": _dinov2("vit_base_patch14_reg4"),
    "dinov2-vitl14-reg": _dinov2("vit_large_patch14_reg4"),
    "dinov3-vits16": _dinov3("vit_small_patch16"),
    "dinov3-vitb16": _dinov3("vit_base_patch16"),
    "dinov3-vitl16": _dinov3("vit_large_patch16"),
    "dinov3-convnext-t": KnownTeacher("convnext_tiny.dinov3_lvd1689m", _DINOV3),
    "dinov3-convnext-s": KnownTeacher("convnext_small.dinov3_lvd1689m", _DINOV3),
    "dinov3-convnext-b": KnownTeacher("convnext_base.dinov3_lvd1689m", _DINOV3),
    "siglip2-b16": KnownTeacher("vit_base_patch16_siglip_224.v2_webli", _APACHE),
    "clip-b16": KnownTeacher("vit_base_patch16_clip_224.openai", _APACHE, classes=0),
    "tipsv2-b14": KnownTeacher("vit_base_patch14_reg1_tipsv2.webli", _APACHE, image_size=(224, 224)),
    "c-radio-b16": KnownTeacher("vit_base_patch16_radio_v3.c_radio", _NVIDIA, image_size=(256, 256)),
    "eva02-s14": KnownTeacher("eva02_small_patch14_224.mim_in22k", _MIT, arguments=_CLASS_TOKEN),
}
