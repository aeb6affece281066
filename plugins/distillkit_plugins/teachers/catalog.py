"""Names of the built-in teachers. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.teachers"
_REVEALED = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS})
_VIT = _REVEALED | {Signal.CLS_ATTENTION}
_SELF_SUPERVISED = _VIT - {Signal.LOGITS}
_FEATURES = _SELF_SUPERVISED - {Signal.CLS_ATTENTION}
_APACHE, _NON_COMMERCIAL = "apache-2.0", "cc-by-nc-4.0"
_DINOV3 = "dinov3-license"
_MISSING = f"{_HERE}.missing_weights:missing_weights"
_OF_IMAGENET = "imagenette"
"""Data of ten of ImageNet's classes, for teachers that know these."""
_timm_teacher = partial(
    PluginSpec, factory=f"{_HERE}.timm_teacher:TimmTeacher", options=f"{_HERE}.options:TimmTeacherOptions"
)
_cifar_resnet = partial(
    PluginSpec,
    factory=f"{_HERE}.cifar_resnet:CifarResNetTeacher",
    options=f"{_HERE}.options:CifarResNetOptions",
    signals=_REVEALED,
)


def distillkit_teachers() -> tuple[PluginSpec, ...]:
    """DeiT's teacher, a ViT, self-supervised ViTs, every timm model, students of earlier runs, and CIFAR ResNets."""
    return (
        _timm_teacher(
            name="regnety16gf",
            summary="RegNetY-16GF, the teacher of DeiT: 82.9 % top-1 on ImageNet, 84 M parameters",
            signals=_REVEALED,
            licence=_APACHE,
            default_data=_OF_IMAGENET,
            missing_file=_MISSING,
        ),
        _timm_teacher(
            name="vit-b",
            summary="ViT-B/16 trained on ImageNet-21k and fine-tuned on ImageNet-1k, 87 M parameters",
            signals=_VIT,
            licence=_APACHE,
            default_data=_OF_IMAGENET,
            missing_file=_MISSING,
        ),
        *(
            _self_supervised(f"dino-{short}", f"{long}, trained without labels by DINO", _APACHE)
            for short, long in (
                ("vits8", "ViT-S/8"),
                ("vits16", "ViT-S/16"),
                ("vitb8", "ViT-B/8"),
                ("vitb16", "ViT-B/16"),
            )
        ),
        *(
            _self_supervised(f"mugs-{short}", f"{long}, trained without labels by Mugs; weights from a file", _APACHE)
            for short, long in (("vits16", "ViT-S/16"), ("vitb16", "ViT-B/16"), ("vitl16", "ViT-L/16"))
        ),
        _self_supervised(
            "mae-vitb16", "ViT-B/16, trained without labels by MAE; not for commercial use", _NON_COMMERCIAL
        ),
        _self_supervised("mae-vits16", "ViT-S/16, trained without labels by MAE; weights from a file", None),
        *_foundation_models(),
        _timm_teacher(
            name="timm",
            summary="any classifier of timm; its weights keep their own licence",
            signals=_VIT,
            argument="any",
            # Nearly all of timm's classifiers know ImageNet's classes; for another one the plan says what it knows.
            default_data=_OF_IMAGENET,
        ),
        PluginSpec(
            name="run",
            summary="the student of a finished run, for example one of `distillkit finetune`",
            factory=f"{_HERE}.saved_run:SavedRun",
            options=f"{_HERE}.options:SavedRunOptions",
            signals=_VIT,
            argument="run directory",
        ),
        _cifar_resnet(
            name="cifar-resnet20",
            summary="ResNet-20 for 32-pixel images, weights from a file; the example of a teacher plugin",
        ),
        _cifar_resnet(
            name="cifar-resnet56",
            summary="ResNet-56 for 32-pixel images, weights from a file",
        ),
    )


def _foundation_models() -> Iterator[PluginSpec]:
    """Encoders trained on large collections of images or of images and texts."""
    sizes = (("s", "ViT-S"), ("b", "ViT-B"), ("l", "ViT-L"))
    for short, long in sizes:
        yield _self_supervised(f"dinov2-vit{short}14", f"DINOv2 {long}/14, at 224 pixels", _APACHE)
        registers = f"DINOv2 {long}/14 with four registers, at 224 pixels"
        yield _self_supervised(f"dinov2-vit{short}14-reg", registers, _APACHE)
    for short, long in sizes:
        yield _self_supervised(f"dinov3-vit{short}16", f"DINOv3 {long}/16, its class token", _DINOV3)
    for short, long in (("t", "Tiny"), ("s", "Small"), ("b", "Base")):
        yield _self_supervised(f"dinov3-convnext-{short}", f"DINOv3 ConvNeXt-{long}", _DINOV3, _FEATURES)
    yield _self_supervised("siglip2-b16", "image encoder of SigLIP2, ViT-B/16 without class token", _APACHE, _FEATURES)
    yield _self_supervised("clip-b16", "image encoder of OpenAI's CLIP, ViT-B/16 without the projection", _APACHE)
    yield _self_supervised("tipsv2-b14", "image encoder of TIPSv2, ViT-B/14, at 224 pixels", _APACHE)
    yield _self_supervised("c-radio-b16", "C-RADIOv3 ViT-B/16, at 256 pixels", "nvidia-open-model-license")
    yield _self_supervised("eva02-s14", "EVA02 ViT-S/14, trained by masked image modelling", "mit")


def _self_supervised(
    name: str, summary: str, licence: str | None, signals: frozenset[Signal] = _SELF_SUPERVISED
) -> PluginSpec:
    return _timm_teacher(name=name, summary=summary, signals=signals, licence=licence, missing_file=_MISSING)
