"""Names of the built-in losses. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.losses"


def distillkit_losses() -> tuple[PluginSpec, ...]:
    """The losses of DeiT, ADViT and AttnDistill, and `ce`, which distils nothing."""
    return (
        PluginSpec(
            name="advit-kl",
            summary="KL divergence of class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionKl",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="advit-l1",
            summary="L1 distance of class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionL1",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="advit-l2",
            summary="squared L2 distance of class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionL2",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="attndistill",
            summary="embedding and last-layer attention of a self-supervised teacher, without labels (AttnDistill)",
            factory=f"{_HERE}.attndistill:AttnDistill",
            signals=frozenset({Signal.CLS_ATTENTION, Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="ce",
            summary="no distillation: cross-entropy on the labels only",
            factory=f"{_HERE}.ce:LabelsOnly",
        ),
        PluginSpec(
            name="hard",
            summary="hard-label distillation: cross-entropy with the teacher's predicted class (DeiT)",
            factory=f"{_HERE}.hard:HardDistillation",
            signals=frozenset({Signal.LOGITS}),
        ),
        PluginSpec(
            name="soft",
            summary="soft-label distillation: KL divergence from the teacher's softened class probabilities (DeiT)",
            factory=f"{_HERE}.soft:SoftDistillation",
            signals=frozenset({Signal.LOGITS}),
        ),
    )
