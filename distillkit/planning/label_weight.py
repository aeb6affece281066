"""The weight of the label term: set by the recipe, else by its losses."""

from __future__ import annotations

from collections.abc import Mapping

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import DataError, RecipeError, SignalError


def resolve_label_weight(given: float | None, by_loss: Mapping[str, float], *, labelled: int) -> float:
    """The weight of the label term: `labels.weight` if set, else the weight that all losses agree on, else 1.

    `by_loss` maps loss names to the label weights of their papers. Without labelled images the weight is 0.
    Raises: RecipeError where the losses disagree; DataError where no image has a label and `given` is positive, or
    there is no loss.
    """
    if not labelled:
        if given:
            raise DataError(
                f"labels.weight is {given:g}, but no image has a label; use labelled --data, or --set labels.weight=0"
            )
        if not by_loss:
            raise DataError(
                "no image has a label and no loss reads a teacher, so there is nothing to learn from; "
                "give labels, or distil with `distillkit run --teacher NAME --loss NAME`"
            )
        return 0.0
    if given is not None:
        return given
    if not by_loss:
        return 1.0
    if len(set(by_loss.values())) > 1:
        weights = [f"{weight:g}" for weight in by_loss.values()]
        raise RecipeError(
            f"losses {_listed(list(by_loss))} have different default label weights ({_listed(weights)}); "
            f"choose one with --set labels.weight={weights[0]}"
        )
    return next(iter(by_loss.values()))


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def check_label_term(student: ModelSpec, label_weight: float) -> None:
    """Refuse a label term for a student without class logits.

    Raises: SignalError.
    """
    if label_weight and Signal.LOGITS not in student.signals:
        reason = student.silent.get(Signal.LOGITS)
        because = f" because {reason}" if reason else ""
        raise SignalError(
            f"the label term reads the student's logits, which student '{student.name}' does not reveal{because}; give "
            f"it a head of {student.classes:,} classes, or set labels.weight=0 with a loss that reads features"
        )
