"""Evaluator for benchmarks: k-NN, linear probe and few labels in one pass over the images instead of one pass each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from distillkit import PluginSpec, Signal, evaluate
from distillkit.data.sources import Source, Stream
from distillkit.evaluation import Features, Measurement, Subject, View
from distillkit.plugin.discovery import discover
from distillkit.plugin.plugin import Owner, Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit_plugins.evaluators.few_label import FewLabel
from distillkit_plugins.evaluators.knn import NearestNeighbours
from distillkit_plugins.evaluators.linear import LinearProbe, probe_view
from distillkit_plugins.evaluators.options import FewLabelOptions, LinearProbeOptions, NearestNeighboursOptions

NAME = "three-protocols"
FIGURES = {"knn/k20_top1": "k-NN", "linear/top1": "linear", "few-label/1%_top1": "1 %", "few-label/10%_top1": "10 %"}
"""The figures that are kept, with their titles in tables."""


def judged(run: Path, data: Path) -> dict[str, float]:
    """k-NN (k = 20), linear probe, 1 % and 10 % of the labels: top-1 of a run on data/test, in percent.

    A tenth of data/train is held out to choose learning rates and penalties.
    """
    spec = PluginSpec(
        name=NAME,
        summary="k-NN, linear probe and few labels",
        factory=f"{__name__}:ThreeProtocols",
        signals=frozenset({Signal.EMBEDDING}),
    )
    found = discover()
    own = Plugin(spec, "evaluator", Owner("benchmarks", "0", __name__))
    plugins = PluginRegistry(replace(found, plugins=(*found.plugins, own)))
    return dict(evaluate(run, NAME, data=data, device="cpu", plugins=plugins).figures)


class ThreeProtocols:
    """The three built-in protocols with their default options, except k = 20, on features that are computed once."""

    learns = True

    class Options(BaseModel, frozen=True, extra="forbid"):
        """None."""

    def __init__(self, options: Options) -> None:  # noqa: ARG002 - the signature of an evaluator
        self.protocols = {
            "knn": NearestNeighbours(NearestNeighboursOptions(k=(20,))),
            "linear": LinearProbe(LinearProbeOptions()),
            "few-label": FewLabel(FewLabelOptions()),
        }

    def measure(self, subject: Subject) -> Measurement:
        """Measure by each protocol; the names of the figures start with that of the protocol."""
        once = SubjectWithFeatures(**{each.name: getattr(subject, each.name) for each in fields(subject)})
        found = {
            f"{protocol}/{name}": value
            for protocol, evaluator in self.protocols.items()
            for name, value in evaluator.measure(once).figures.items()
        }
        return Measurement(
            title="k-NN, linear probe and few labels",
            figures={name: found[name] for name in FIGURES} | {"images": float(len(cast("Source", once.measured)))},
        )


@dataclass(frozen=True)
class SubjectWithFeatures(Subject):
    """A subject that keeps the features of each set of images, with all layers that the linear probe reads.

    Only for models without patch means in the probe: narrower than ViT-B.
    """

    kept: dict[int, tuple[Source | Stream, Features]] = field(default_factory=dict)

    def features(self, images: Source | Stream, view: View) -> Features:
        # The images are kept with their features: the identity of an object is unique only while it exists.
        if id(images) not in self.kept:
            widest = probe_view(self.spec, None, patch_mean=None)
            self.kept[id(images)] = (images, super().features(images, widest))
        found = self.kept[id(images)][1]
        # The last layer is the last columns. A copy, because the probe standardises in place.
        return Features(found.values[:, -view.width(self.spec) :].clone(), found.labels)
