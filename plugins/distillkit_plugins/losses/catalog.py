"""The names of the losses. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.losses"


def distillkit_losses() -> tuple[PluginSpec, ...]:
    """The losses of DeiT, and the name for having none."""
    return (
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
