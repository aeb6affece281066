"""`few-label`: how far the features go with the labels of few images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, Field
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from distillkit import DataError
from distillkit.evaluation import Features, Measurement, Row, Subject, View, balanced_subset, listed_subset

Strength: TypeAlias = Annotated[float, Field(gt=0)]


class FewLabel:
    """Logistic regression on the embeddings of few labelled images, on 1 % and 10 % of every class or on a list.

    Embeddings are of the last layer, scaled to unit length. The regression has an L2 penalty and no intercept; its
    strength is chosen on validation images where those are not what is measured.
    Source: Mugs (Zhou et al. 2022, arXiv:2203.14415), `eval_logistic_regression.py`; the 1 % and 10 % of ImageNet in
        the tables are the lists of SimCLR (Chen et al. 2020, arXiv:2002.05709).
    Differs: scikit-learn's solver, run to its optimum; more strengths.
    """

    learns = True

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """Which images keep their label, and how strongly the weights are held down."""

        shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
            (0.01, 0.1), strict=False, min_length=1, description="shares of the labelled training images"
        )
        list: str | None = Field(None, description="a text file that names the images, one a line, instead of shares")
        seed: int = Field(0, description="chooses the images of a share")
        penalties: tuple[Strength, ...] = Field(
            (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            strict=False,
            min_length=1,
            description="factors of half the squared weights, beside the sum of the losses",
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Raises: DataError for a list that does not fit, a stream, or labels of one class alone."""
        options = self.options
        if options.list is None:
            subsets = {
                f"{100 * share:g}%": balanced_subset(subject.training, share, options.seed) for share in options.shares
            }
        else:
            subsets = {"list": listed_subset(subject.training, Path(options.list))}
        measured = subject.features(subject.measured, View())
        choosing = None if subject.validation is None else subject.features(subject.validation, View())
        figures: dict[str, float] = {}
        rows: list[Row] = []
        notes: list[str] = []
        for name, subset in subsets.items():
            few = subject.features(subset, View())
            found = regressions(few, options.penalties, measured, measured if choosing is None else choosing)
            best = max(found, key=lambda each: each[2])
            figures[f"{name}_top1"] = best[1]
            rows += [
                {"labels": name, "images": len(few), "penalty": penalty, "top1": top1} for penalty, top1, _ in found
            ]
            notes.append(f"{name}: {_described(few, subject.classes)}; penalty {best[0]:g} was chosen")
        by = "the measured images themselves" if choosing is None else f"{len(choosing):,} validation images"
        how = f"seed {options.seed}" if options.list is None else f"the list {options.list}"
        return Measurement(
            title=f"logistic regression on few labels, chosen by {how}; penalty chosen on {by}",
            figures=figures | {"images": float(len(measured))},
            rows=tuple(rows),
            settings=options.model_dump(),
            notes=tuple(notes),
        )


def regressions(
    few: Features, penalties: Sequence[float], measured: Features, choosing: Features
) -> tuple[tuple[float, float, float], ...]:
    """For every penalty: itself, and the accuracy in percent on `measured` and on `choosing`."""
    found = []
    for penalty in penalties:
        regression = fit(few, penalty)
        scores = [_accuracy(regression, features) for features in (measured, choosing)]
        found.append((penalty, scores[0], scores[1]))
    return tuple(found)


def fit(few: Features, penalty: float) -> LogisticRegression:
    """Minimise the sum of the cross-entropies plus penalty / 2 times the squared weights, all classes together.

    Raises: DataError where there is one class alone.
    """
    present = len(set(few.labels.tolist()))
    if present < 2:
        raise DataError("the few labels are all of one class, so there is nothing to tell apart; give more")
    # Of two classes scikit-learn fits the difference of their weights, whose square is twice the sum of both squares.
    strength = (2 if present == 2 else 1) / penalty
    regression = LogisticRegression(C=strength, fit_intercept=False, tol=1e-6, max_iter=5000)
    return regression.fit(_unit(few), few.labels.numpy())


def _accuracy(regression: LogisticRegression, features: Features) -> float:
    return 100 * float(np.mean(regression.predict(_unit(features)) == features.labels.numpy()))


def _unit(features: Features) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return functional.normalize(features.values.double()).numpy()


def _described(few: Features, classes: int) -> str:
    counts = torch.bincount(few.labels, minlength=classes)
    least, most = int(counts.min()), int(counts.max())
    return f"{len(few):,} labels, {least}" + (f" to {most}" if most > least else "") + " of every class"
