"""Names of the built-in students. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.students"
_ONE_HEAD = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS})
_VIT = _ONE_HEAD | {Signal.CLS_ATTENTION}
_DISTILLED_VIT = _VIT | {Signal.DISTILL_LOGITS}
_APACHE = "apache-2.0"


def distillkit_students() -> tuple[PluginSpec, ...]:
    """DeiT with and without distillation token, every classifier of timm, and a small CNN."""
    return (
        *(
            _deit(f"deit-{size}", f"DeiT-{size.title()} with distillation token", _DISTILLED_VIT)
            for size in ("ti", "s", "b")
        ),
        *(_deit(f"vit-{size}", f"plain ViT-{size.title()} as in DeiT", _VIT) for size in ("ti", "s", "b")),
        PluginSpec(
            name="small-cnn",
            summary="CNN of three stages for tiny images (digits, CIFAR)",
            factory=f"{_HERE}.small_cnn:SmallCnn",
            signals=_ONE_HEAD,
        ),
        PluginSpec(
            name="timm",
            summary="any classifier of timm; its pretrained weights keep their own licence",
            factory=f"{_HERE}.timm_student:TimmStudent",
            signals=_DISTILLED_VIT,
            argument="any classifier",
        ),
    )


def _deit(name: str, summary: str, signals: frozenset[Signal]) -> PluginSpec:
    """Spec of a DeiT student; `licence` is that of the weights of `student.weights = "pretrained"`."""
    return PluginSpec(name=name, summary=summary, factory=f"{_HERE}.deit:Deit", signals=signals, licence=_APACHE)
