"""Names of the built-in teachers. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.teachers"
_REVEALED = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS})
_VIT = _REVEALED | {Signal.CLS_ATTENTION}
_SELF_SUPERVISED = _VIT - {Signal.LOGITS}
_APACHE, _NON_COMMERCIAL = "apache-2.0", "cc-by-nc-4.0"


def distillkit_teachers() -> tuple[PluginSpec, ...]:
    """DeiT's teacher, a ViT, self-supervised ViTs, every timm model, students of earlier runs, and CIFAR ResNets."""
    return (
        PluginSpec(
            name="regnety16gf",
            summary="RegNetY-16GF, the teacher of DeiT: 82.9 % top-1 on ImageNet, 84 M parameters",
            factory=f"{_HERE}.timm_teacher:TimmTeacher",
            signals=_REVEALED,
            licence=_APACHE,
        ),
        PluginSpec(
            name="vit-b",
            summary="ViT-B/16 trained on ImageNet-21k and fine-tuned on ImageNet-1k, 87 M parameters",
            factory=f"{_HERE}.timm_teacher:TimmTeacher",
            signals=_VIT,
            licence=_APACHE,
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
        PluginSpec(
            name="timm",
            summary="any classifier of timm; its weights keep their own licence",
            factory=f"{_HERE}.timm_teacher:TimmTeacher",
            signals=_VIT,
            argument="any",
        ),
        PluginSpec(
            name="run",
            summary="the student of a finished run, for example one of `distillkit finetune`",
            factory=f"{_HERE}.saved_run:SavedRun",
            signals=_VIT,
            argument="run directory",
        ),
        PluginSpec(
            name="cifar-resnet20",
            summary="ResNet-20 for 32-pixel images, weights from a file; the example of a teacher plugin",
            factory=f"{_HERE}.cifar_resnet:CifarResNetTeacher",
            signals=_REVEALED,
        ),
        PluginSpec(
            name="cifar-resnet56",
            summary="ResNet-56 for 32-pixel images, weights from a file",
            factory=f"{_HERE}.cifar_resnet:CifarResNetTeacher",
            signals=_REVEALED,
        ),
    )


def _self_supervised(name: str, summary: str, licence: str | None) -> PluginSpec:
    factory = f"{_HERE}.timm_teacher:TimmTeacher"
    return PluginSpec(name=name, summary=summary, factory=factory, signals=_SELF_SUPERVISED, licence=licence)
