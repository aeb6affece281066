"""Successive halving: stop a trial that is not among the best of those that came as far.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934, algorithm 2, in the
form of Optuna's `SuccessiveHalvingPruner`: a trial is compared once it reaches a rung, with those before it, and is
either continued at once or stopped for good.
Differs: Optuna's pruner stores that a rung is completed before it answers, so that an answer that is lost when the
process is killed is never given again. This one depends on the reported figures alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def rungs(first: int, keep: int, last: int) -> Iterator[int]:
    """The epochs at which trials are compared: `first`, and each `keep` times the one before, below `last`.

    >>> list(rungs(3, 3, 30))
    [3, 9, 27]
    """
    rung = first
    while rung < last:
        yield rung
        rung *= keep


def is_stopped(value: float, others: Sequence[float], keep: int) -> bool:
    """Whether a trial with this figure at a rung stops; `others` are those of earlier trials. Larger is better.

    It continues if it is among the best 1/`keep` of all, ties included, or the best of fewer than `keep`.

    >>> is_stopped(2.0, [1.0, 3.0], keep=3), is_stopped(3.0, [1.0, 3.0], keep=3)
    (True, False)
    """
    ranked = sorted([value, *others], reverse=True)
    return value < ranked[max(1, len(ranked) // keep) - 1]


def first_stop(
    figures: Mapping[int, float], earlier: Sequence[Mapping[int, float]], *, first: int, keep: int, last: int
) -> int | None:
    """The epoch at which a trial stops by its `figures` so far, by epoch; None if it continues.

    `earlier` are the figures of the trials that were started before it.
    """
    for rung in rungs(first, keep, last):
        epoch = _reached(figures, rung, last)
        if epoch is not None:
            others = [each[there] for each in earlier if (there := _reached(each, rung, last)) is not None]
            if is_stopped(figures[epoch], others, keep):
                return epoch
    return None


def _reached(figures: Mapping[int, float], rung: int, last: int) -> int | None:
    """The first epoch from a rung on that has a figure, without the last one, after which there is nothing to stop."""
    return min((epoch for epoch in figures if rung <= epoch < last), default=None)
