"""Plan the preparation of losses before the first step: how many training images, and whether there are enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from distillkit.contracts.loss import preparation_of
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.errors import BankError, DataError
from distillkit.messages.text import counted
from distillkit.planning.plan import LossPlan
from distillkit.recipe.schema import Recipe

REMEDY = "set options of the loss that need fewer (docs/losses.md)"
"""What to do about too few images for a loss that has no `prepare_remedy` of its own."""


def with_preparation(
    losses: Mapping[str, LossPlan], recipe: Recipe, *, images: int, resuming: bool
) -> dict[str, LossPlan]:
    """The losses with the number of images on which each is prepared, at most those of an epoch, `images`.

    Raises: DataError if an epoch has too few; BankError if the teacher has no weights; neither if the run resumes.
    """
    without_weights = {teacher.name for teacher in recipe.teachers if teacher.only_in_bank}
    planned = {}
    for name, plan in losses.items():
        loss = preparation_of(plan.loss)
        if loss is None or plan.teacher is None:
            planned[name] = plan
            continue
        if not resuming and plan.teacher in without_weights:
            raise BankError(
                f"loss '{name}' is prepared with outputs of teacher '{plan.teacher}' before the first step, and that "
                'has weights = "bank"; give its weights'
            )
        least = getattr(loss, "prepare_at_least", 1)
        if not resuming and images < least:
            raise DataError(
                f"loss '{name}' is prepared on at least {counted(least, 'training image')}, and an epoch has "
                f"{images:,}; give more images, or {getattr(loss, 'prepare_remedy', REMEDY)}"
            )
        planned[name] = replace(plan, prepares=min(loss.prepare_images, images))
    return planned


def check_index(losses: Mapping[str, LossPlan], train: Source | Stream) -> None:
    """Check that the images have numbers if a loss reads them. Raises: DataError for a stream."""
    if not is_stream(train):
        return
    needing = next((name for name, plan in losses.items() if getattr(plan.loss, "needs_index", False)), None)
    if needing is not None:
        raise DataError(
            f"loss '{needing}' needs images with an index, and '{train.name}' is a stream; name a folder or an indexed "
            "data set"
        )
