"""The names of the losses. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.losses"


def distillkit_losses() -> tuple[PluginSpec, ...]:
    """The losses of DeiT, ADViT and AttnDistill, and the name for having none."""
    return (
        PluginSpec(
            name="advit-kl",
            summary="divergence from the teacher's class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionKl",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="advit-l1",
            summary="absolute distance to the teacher's class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionL1",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="advit-l2",
            summary="squared distance to the teacher's class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionL2",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="attndistill",
            summary="a self-supervised teacher's embedding and last attention, without labels (AttnDistill)",
            factory=f"{_HERE}.attndistill:AttnDistill",
            signals=frozenset({Signal.CLS_ATTENTION, Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="ce",
            summary="no distillation: the cross-entropy on the labels alone",
            factory=f"{_HERE}.ce:LabelsOnly",
        ),
        PluginSpec(
            name="hard",
            summary="cross-entropy with the teacher's decision (DeiT's hard-label distillation)",
            factory=f"{_HERE}.hard:HardDistillation",
            signals=frozenset({Signal.LOGITS}),
        ),
        PluginSpec(
            name="soft",
            summary="Kullback-Leibler divergence from the teacher's softened classes (DeiT's soft distillation)",
            factory=f"{_HERE}.soft:SoftDistillation",
            signals=frozenset({Signal.LOGITS}),
        ),
    )
