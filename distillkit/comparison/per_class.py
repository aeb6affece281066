"""Accuracy of each class, as mean and spread over the runs of an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillkit.comparison.arms import ComparedArm
from distillkit.comparison.spread import Spread, spread

if TYPE_CHECKING:
    from distillkit.comparison.answers import Answers


@dataclass(frozen=True)
class PerClass:
    """Accuracy in percent of each class: by class, then by arm. `split` is that of the images."""

    split: str
    accuracy: Mapping[str, Mapping[str, Spread]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        classes = {
            name: {arm: each.as_dict() for arm, each in by_arm.items()} for name, by_arm in self.accuracy.items()
        }
        return {"split": self.split, "accuracy": classes}


def per_class(arms: Sequence[ComparedArm], split: str, answers: Answers | None) -> PerClass | None:
    """Accuracy per class on a split, from `answers`, else from what `distillkit evaluate --per-class` has stored.

    None unless there is at least one run of every arm that has it.
    """
    by_run = _stored(arms, split) if answers is None else {run: _counted(answers, run) for run in answers.predicted}
    if not all(any(run.name in by_run for run in arm.runs) for arm in arms):
        return None
    classes = dict.fromkeys(name for figures in by_run.values() for name in figures)
    found = {
        name: {
            arm.name: each
            for arm in arms
            if (each := spread(by_run[run.name][name] for run in arm.runs if name in by_run.get(run.name, {})))
        }
        for name in classes
    }
    return PerClass(split if answers is None else answers.split, found)


def _stored(arms: Sequence[ComparedArm], split: str) -> dict[str, Mapping[str, float]]:
    """The accuracies per class that runs have stored for their last student on the split of their own data."""
    return {
        run.name: evaluation.per_class
        for arm in arms
        for run in arm.runs
        for evaluation in run.evaluations
        if evaluation.name == f"top1 on {run.plan.data.train} {split}" and evaluation.per_class
    }


def _counted(answers: Answers, run: str) -> dict[str, float]:
    """The accuracy per class from the predictions of a run."""
    images: dict[int, int] = {}
    right: dict[int, int] = {}
    for label, predicted in zip(answers.labels, answers.predicted[run], strict=True):
        images[label] = images.get(label, 0) + 1
        right[label] = right.get(label, 0) + (label == predicted)
    return {answers.class_name(label): 100 * right[label] / images[label] for label in sorted(images)}
