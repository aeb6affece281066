"""Names of the built-in students. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from functools import partial

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.students"
_ONE_HEAD = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS})
_VIT = _ONE_HEAD | {Signal.CLS_ATTENTION}
_DISTILLED_VIT = _VIT | {Signal.DISTILL_LOGITS}
# The licence is that of the weights of `student.weights = "pretrained"`.
_deit = partial(PluginSpec, factory=f"{_HERE}.deit:Deit", options=f"{_HERE}.options:DeitOptions", licence="apache-2.0")


def distillkit_students() -> tuple[PluginSpec, ...]:
    """DeiT with and without distillation token, every classifier of timm, and a small CNN."""
    return (
        *(
            _deit(name=f"deit-{size}", summary=f"DeiT-{size.title()} with distillation token", signals=_DISTILLED_VIT)
            for size in ("ti", "s", "b")
        ),
        *(
            _deit(name=f"vit-{size}", summary=f"plain ViT-{size.title()} as in DeiT", signals=_VIT)
            for size in ("ti", "s", "b")
        ),
        PluginSpec(
            name="small-cnn",
            summary="CNN of three stages for tiny images (digits, CIFAR)",
            factory=f"{_HERE}.small_cnn:SmallCnn",
            options=f"{_HERE}.options:SmallCnnOptions",
            signals=_ONE_HEAD,
        ),
        PluginSpec(
            name="timm",
            summary="any classifier of timm; its pretrained weights keep their own licence",
            factory=f"{_HERE}.timm_student:TimmStudent",
            options=f"{_HERE}.options:TimmStudentOptions",
            signals=_DISTILLED_VIT,
            argument="any classifier",
        ),
        PluginSpec(
            name="module",
            summary="a torch.nn.Module given from Python: distillkit.run(recipe, student=network)",
            factory=f"{_HERE}.given_module:GivenModule",
            options=f"{_HERE}.options:GivenModuleOptions",
            signals=_ONE_HEAD,
            argument="given from Python",
        ),
        PluginSpec(
            name="torchvision",
            summary="any classifier of torchvision, without timm",
            factory=f"{_HERE}.torchvision_student:TorchvisionStudent",
            options=f"{_HERE}.options:TorchvisionOptions",
            signals=_ONE_HEAD,
            argument="any classifier",
        ),
    )
