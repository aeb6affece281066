"""The weight of the label term: set by the recipe, else by its losses."""

from __future__ import annotations

import pytest

from distillkit.errors import DataError, RecipeError
from distillkit.planning.label_weight import resolve_label_weight


def test_precedence() -> None:
    assert resolve_label_weight(None, {}, labelled=5) == 1.0
    assert resolve_label_weight(None, {"hard": 0.5, "soft": 0.5}, labelled=5) == 0.5
    assert resolve_label_weight(0.9, {"hard": 0.5, "soft": 0.1}, labelled=5) == 0.9
    assert resolve_label_weight(0.0, {"hard": 0.5}, labelled=5) == 0.0
    assert resolve_label_weight(None, {"hard": 0.5}, labelled=0) == 0.0


def test_losses_that_disagree_need_labels_weight() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_label_weight(None, {"hard": 0.5, "soft": 0.9}, labelled=5)
    assert str(caught.value) == (
        "losses hard and soft have different default label weights (0.5 and 0.9); "
        "choose one with --set labels.weight=0.5"
    )


def test_without_labels_a_label_weight_or_no_teacher_is_an_error() -> None:
    with pytest.raises(DataError) as weight_given:
        resolve_label_weight(0.5, {"hard": 0.5}, labelled=0)
    assert str(weight_given.value) == (
        "labels.weight is 0.5, but no image has a label; use labelled --data, or --set labels.weight=0"
    )
    with pytest.raises(DataError) as no_teacher:
        resolve_label_weight(None, {}, labelled=0)
    assert str(no_teacher.value) == (
        "no image has a label and no loss reads a teacher, so there is nothing to learn from; "
        "give labels, or distil with `distillkit run --teacher NAME --loss NAME`"
    )
