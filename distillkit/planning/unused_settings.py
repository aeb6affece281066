"""Settings of a recipe that have no effect with its other settings, as notes of the plan."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.recipe.schema import Recipe


def unused_settings(recipe: Recipe, student: ModelSpec) -> Iterator[str]:
    """A note for each setting that nothing reads; not an error, because they may come from a base recipe or a run."""
    optimizer, evaluation = recipe.optimizer, recipe.evaluation
    # timm's function for all optimisers drops it without an error; it refuses unknown betas and eps.
    if optimizer.momentum is not None and not _has_momentum(optimizer.name):
        setting = f"optimizer.momentum = {optimizer.momentum:g}"
        yield f"optimizer '{optimizer.name}' has no momentum, so {setting} has no effect"
    if Signal.DISTILL_LOGITS not in student.signals:
        for key, value in (("head", evaluation.head), ("fusion", evaluation.fusion)):
            if value in {"distill", "softmax"}:
                yield f"student '{student.name}' has one head, so evaluation.{key} = \"{value}\" has no effect"

    for teacher in recipe.teachers:
        if teacher.sharded and teacher.form not in {"auto", "plain"}:
            yield f"teacher '{teacher.name}' is sharded, which has the plain form only, so form has no effect"


def _has_momentum(optimizer: str) -> bool:
    from timm.optim import get_optimizer_info  # imports torch's compiler, which a plan does not need

    return get_optimizer_info(optimizer).has_momentum
