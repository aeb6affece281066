"""Names of the built-in evaluators. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.evaluators"


def distillkit_evaluators() -> tuple[PluginSpec, ...]:
    """Accuracy of a model's own heads, and three evaluations of its features."""
    return (
        PluginSpec(
            name="top1",
            summary="accuracy of the model's own heads, also per class and against ReaL labels",
            factory=f"{_HERE}.top1:Top1",
            options=f"{_HERE}.options:Top1Options",
            signals=frozenset({Signal.LOGITS}),
        ),
        PluginSpec(
            name="knn",
            summary="weighted k-NN among the training images, DINO's protocol",
            factory=f"{_HERE}.knn:NearestNeighbours",
            options=f"{_HERE}.options:NearestNeighboursOptions",
            signals=frozenset({Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="linear",
            summary="linear probe of the frozen model: fast, on cached features, or DINO's protocol",
            factory=f"{_HERE}.linear:LinearProbe",
            options=f"{_HERE}.options:LinearProbeOptions",
            signals=frozenset({Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="few-label",
            summary="logistic regression or fine-tuning with few labels: 1 % and 10 %, or a list of images",
            factory=f"{_HERE}.few_label:FewLabel",
            options=f"{_HERE}.options:FewLabelOptions",
            signals=frozenset({Signal.EMBEDDING}),
        ),
    )
