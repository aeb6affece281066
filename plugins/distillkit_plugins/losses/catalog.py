"""Names of the built-in losses. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.losses"


def distillkit_losses() -> tuple[PluginSpec, ...]:
    """The losses of DeiT, ADViT and AttnDistill, those on features, and `ce`, which distils nothing."""
    return (
        PluginSpec(
            name="advit-kl",
            summary="KL divergence of class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionKl",
            options=f"{_HERE}.options:AttentionKlOptions",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="advit-l1",
            summary="L1 distance of class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionL1",
            options=f"{_HERE}.options:AttentionOptions",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="advit-l2",
            summary="squared L2 distance of class-token attention, layer by layer (ADViT)",
            factory=f"{_HERE}.advit:AttentionL2",
            options=f"{_HERE}.options:AttentionOptions",
            signals=frozenset({Signal.CLS_ATTENTION}),
        ),
        PluginSpec(
            name="anchors",
            summary="similarity of the embedding to those of fixed training images, without labels",
            factory=f"{_HERE}.anchors:Anchors",
            options=f"{_HERE}.options:AnchorsOptions",
            signals=frozenset({Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="attndistill",
            summary="embedding and last-layer attention of a self-supervised teacher, without labels (AttnDistill)",
            factory=f"{_HERE}.attndistill:AttnDistill",
            options=f"{_HERE}.options:AttnDistillOptions",
            signals=frozenset({Signal.CLS_ATTENTION, Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="ce",
            summary="no distillation: cross-entropy on the labels only",
            factory=f"{_HERE}.ce:LabelsOnly",
            options=f"{_HERE}.options:CeOptions",
        ),
        PluginSpec(
            name="features",
            summary="embedding and patch tokens of any teacher into any student, without labels",
            factory=f"{_HERE}.features:FeatureDistillation",
            options=f"{_HERE}.options:FeaturesOptions",
            signals=frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS}),
        ),
        PluginSpec(
            name="hard",
            summary="hard-label distillation: cross-entropy with the teacher's predicted class (DeiT)",
            factory=f"{_HERE}.hard:HardDistillation",
            options=f"{_HERE}.options:HardOptions",
            signals=frozenset({Signal.LOGITS}),
        ),
        PluginSpec(
            name="similarity",
            summary="similarity of the patches of an image to one another, without labels",
            factory=f"{_HERE}.similarity:Similarity",
            options=f"{_HERE}.options:SimilarityOptions",
            signals=frozenset({Signal.PATCH_TOKENS}),
        ),
        PluginSpec(
            name="soft",
            summary="soft-label distillation: KL divergence from the teacher's softened class probabilities (DeiT)",
            factory=f"{_HERE}.soft:SoftDistillation",
            options=f"{_HERE}.options:SoftOptions",
            signals=frozenset({Signal.LOGITS}),
        ),
    )
