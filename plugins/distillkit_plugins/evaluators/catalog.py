"""The names of the evaluators. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec, Signal

_HERE = "distillkit_plugins.evaluators"


def distillkit_evaluators() -> tuple[PluginSpec, ...]:
    """The accuracy of a model's own heads, and three ways to judge its features."""
    return (
        PluginSpec(
            name="top1",
            summary="accuracy of the model's own heads; per class; against ReaL labels",
            factory=f"{_HERE}.top1:Top1",
            signals=frozenset({Signal.LOGITS}),
        ),
        PluginSpec(
            name="knn",
            summary="weighted nearest neighbours among the training images, DINO's protocol",
            factory=f"{_HERE}.knn:NearestNeighbours",
            signals=frozenset({Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="linear",
            summary="a linear classifier on the frozen model: fast on cached features, or DINO's protocol",
            factory=f"{_HERE}.linear:LinearProbe",
            signals=frozenset({Signal.EMBEDDING}),
        ),
        PluginSpec(
            name="few-label",
            summary="1 % and 10 % of the labels, or a list: logistic regression on the features, or fine-tuning",
            factory=f"{_HERE}.few_label:FewLabel",
            signals=frozenset({Signal.EMBEDDING}),
        ),
    )
