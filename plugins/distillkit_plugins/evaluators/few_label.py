"""`few-label`: accuracy with the labels of few training images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from distillkit import DataError, RecipeError
from distillkit.evaluation import (
    Features,
    Measurement,
    Row,
    Subject,
    View,
    balanced_subset,
    finetuned_top1,
    listed_subset,
)
from distillkit_plugins.evaluators.options import FewLabelOptions

if TYPE_CHECKING:
    from distillkit.data.sources import Source


class FewLabel:
    """Accuracy with few labels: 1 % and 10 % of the training images, or those in a list.

    `logistic`: logistic regression on the last layer's embedding, scaled to unit length, with an L2 penalty and no
    intercept. The penalty is selected on the validation images, unless these are the images to be evaluated.
    `finetune`: the complete model is trained further, on cropped and flipped images as in its run.
    Source: Mugs (Zhou et al. 2022, arXiv:2203.14415), `eval_logistic_regression.py` and the settings of its
        fine-tuning; the 1 % and 10 % of ImageNet in the tables are the lists of SimCLR (arXiv:2002.05709).
    Differs: scikit-learn's solver, run to the optimum, and more penalties. Fine-tuning starts from the model and a new
        head, where Mugs keeps a layer of its projection head; drop path is that of the student.
    """

    learns = True

    Options = FewLabelOptions

    def __init__(self, options: FewLabelOptions) -> None:
        if options.list is not None and options.method == "finetune":
            raise RecipeError("method=finetune does not support list; use shares, or method=logistic")
        self.options = options

    @property
    def shares(self) -> bool:
        """Whether several processes share the work; fine-tuning is a run of a single process."""
        return self.options.method == "logistic"

    def measure(self, subject: Subject) -> Measurement:
        """Measure the accuracy for every share, or for the list.

        Raises: DataError for a list that does not fit, a stream, or labels of a single class; UserError.
        """
        options = self.options
        if options.list is not None:
            subsets = {"list": listed_subset(subject.training, Path(options.list))}
        else:
            subsets = {
                f"{100 * share:g}%": balanced_subset(subject.training, share, options.seed) for share in options.shares
            }
        return self._logistic(subject, subsets) if options.method == "logistic" else self._finetune(subject, subsets)

    def _logistic(self, subject: Subject, subsets: Mapping[str, Source]) -> Measurement:
        options, processes = self.options, subject.processes
        measured = subject.features(subject.measured, View())
        selection = None if subject.validation is None else subject.features(subject.validation, View())
        figures: dict[str, float] = {}
        rows: list[Row] = []
        notes: list[str] = []
        for name, subset in subsets.items():
            few = subject.features(subset, View())
            # Each process fits every world-th penalty; interleaving the results restores the order of the options.
            penalties = options.penalties[processes.rank :: processes.world]
            fitted = regressions(few, penalties, measured, measured if selection is None else selection)
            by_process = [json.loads(text) for text in processes.gather(json.dumps(fitted))]
            results = [by_process[i % processes.world][i // processes.world] for i in range(len(options.penalties))]
            best = max(results, key=lambda result: result[2])
            figures[f"{name}_top1"] = best[1]
            rows += [
                {"labels": name, "images": len(few), "penalty": penalty, "top1": top1} for penalty, top1, _ in results
            ]
            notes.append(f"{name}: {_described(few, subject.classes)}; penalty {best[0]:g} was chosen")
        by = "the evaluated images themselves" if selection is None else f"{len(selection):,} validation images"
        how = f"seed {options.seed}" if options.list is None else f"the list {options.list}"
        return Measurement(
            title=f"logistic regression on few labels, chosen by {how}; penalty chosen on {by}",
            figures=figures | {"images": float(len(measured))},
            rows=tuple(rows),
            settings=options.model_dump(include={"method", "shares", "list", "seed", "penalties"}),
            notes=tuple(notes),
        )

    def _finetune(self, subject: Subject, subsets: Mapping[str, Source]) -> Measurement:
        options = self.options
        accuracies = {
            name: finetuned_top1(
                subject,
                len(subset),
                seed=options.seed,
                epochs=options.epochs,
                batch_size=options.batch_size,
                lr=options.lr,
            )
            for name, subset in subsets.items()
        }
        return Measurement(
            title=f"fine-tuning on few labels, chosen by seed {options.seed} ({options.epochs:,} epochs)",
            figures={f"{name}_top1": top1 for name, top1 in accuracies.items()}
            | {"images": float(len(subject.readable()))},
            rows=tuple(
                {"labels": name, "images": len(subsets[name]), "top1": top1} for name, top1 in accuracies.items()
            ),
            settings=options.model_dump(include={"method", "shares", "seed", "epochs", "lr", "batch_size"}),
        )


def regressions(
    few: Features, penalties: Sequence[float], measured: Features, selection: Features
) -> tuple[tuple[float, float, float], ...]:
    """(penalty, accuracy on `measured`, accuracy on `selection`) for every penalty; accuracies in percent."""
    results = []
    for penalty in penalties:
        regression = fit(few, penalty)
        scores = [_accuracy(regression, features) for features in (measured, selection)]
        results.append((penalty, scores[0], scores[1]))
    return tuple(results)


def fit(few: Features, penalty: float) -> LogisticRegression:
    """Fit a multinomial logistic regression: sum of cross-entropies plus penalty / 2 times the squared weights.

    Raises: DataError if all labels are of one class.
    """
    present = len(set(few.labels.tolist()))
    if present < 2:
        raise DataError("the labelled images are all of one class; use more labels, from at least two classes")
    # With two classes scikit-learn fits the difference of their weights, whose square is twice the sum of both squares.
    strength = (2 if present == 2 else 1) / penalty
    regression = LogisticRegression(C=strength, fit_intercept=False, tol=1e-6, max_iter=5000)
    return regression.fit(_unit(few), few.labels.numpy())


def _accuracy(regression: LogisticRegression, features: Features) -> float:
    return 100 * float(np.mean(regression.predict(_unit(features)) == features.labels.numpy()))


def _unit(features: Features) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return functional.normalize(features.values.double()).numpy()  # [N, D]


def _described(few: Features, classes: int) -> str:
    counts = torch.bincount(few.labels, minlength=classes)
    least, most = int(counts.min()), int(counts.max())
    return f"{len(few):,} labels, {least}" + (f" to {most}" if most > least else "") + " per class"
