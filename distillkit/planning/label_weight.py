"""Who decides how much the labels count."""

from __future__ import annotations

from collections.abc import Mapping

from distillkit.errors import DataError, RecipeError


def resolve_label_weight(given: float | None, asked: Mapping[str, float], *, labelled: int) -> float:
    """The factor of the label term: `labels.weight` where given, else what all losses agree on, 1 without any loss.

    `asked` maps loss names to their papers' label weights. Where nothing is labelled the term is dropped, unless the
    recipe insists on it.
    Raises: RecipeError where the losses disagree; DataError where labels are asked for, or needed, and there are none.
    """
    if not labelled:
        if given:
            raise DataError(f"labels.weight is {given:g} and no image has a label; give labels or set labels.weight=0")
        if not asked:
            raise DataError(
                "no image has a label and no loss reads a teacher, so there is nothing to learn from; "
                "give --teacher and --loss, or labels"
            )
        return 0.0
    if given is not None:
        return given
    if not asked:
        return 1.0
    if len(set(asked.values())) > 1:
        wishes = ", ".join(f"{name} wants {weight:g}" for name, weight in asked.items())
        raise RecipeError(f"the losses disagree on the weight of the label term ({wishes}); set labels.weight")
    return next(iter(asked.values()))
