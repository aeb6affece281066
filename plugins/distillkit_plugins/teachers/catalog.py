"""The names of the teachers. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.teachers"
_REVEALED = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS})
_VIT = _REVEALED | {Signal.CLS_ATTENTION}


def distillkit_teachers() -> tuple[PluginSpec, ...]:
    """DeiT's teacher, a ViT, everything that timm has, students of earlier runs, and CIFAR's small ResNets."""
    return (
        PluginSpec(
            name="regnety16gf",
            summary="RegNetY-16GF, the teacher of DeiT: 82.9 % top-1 on ImageNet, 84 M parameters",
            factory=f"{_HERE}.timm_teacher:TimmTeacher",
            signals=_REVEALED,
            licence="apache-2.0",
        ),
        PluginSpec(
            name="vit-b",
            summary="ViT-B/16 trained on ImageNet-21k and tuned on ImageNet, 87 M parameters",
            factory=f"{_HERE}.timm_teacher:TimmTeacher",
            signals=_VIT,
            licence="apache-2.0",
        ),
        PluginSpec(
            name="timm",
            summary="any classifier of timm; its weights keep their own licence",
            factory=f"{_HERE}.timm_teacher:TimmTeacher",
            signals=_VIT,
            argument="any",
        ),
        PluginSpec(
            name="run",
            summary="the student of a finished run, such as a teacher made by `distillkit finetune`",
            factory=f"{_HERE}.saved_run:SavedRun",
            signals=_VIT,
            argument="run directory",
        ),
        PluginSpec(
            name="cifar-resnet20",
            summary="ResNet-20 for 32-pixel images; the worked example of a teacher plugin, weights from a file",
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
