"""Whether several runs can train in one pass over the data: the same images, teachers and steps for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distillkit.errors import RecipeError
from distillkit.messages.dotted_keys import differences
from distillkit.messages.text import shortened
from distillkit.planning.plan import Plan

EQUAL = ("augment", "data", "mixing")
"""Tables that decide the images."""
EQUAL_OF = {
    "labels": ("smoothing",),
    "training": ("batch_size", "compile", "device", "micro_batch_size", "patience", "threads"),
}
"""The keys of other tables that decide the batches, or hold for the whole process."""
FACTS: Mapping[str, Callable[[Plan], Any]] = {
    "optimiser steps": lambda plan: plan.steps,
    "training images": lambda plan: len(plan.datasets.train),  # without those that labels alone cannot train on
    "classes": lambda plan: plan.classes,
    "student.image_size": lambda plan: list(plan.student.spec.image_size),
    "student.mean": lambda plan: list(plan.student.spec.mean),
    "student.std": lambda plan: list(plan.student.spec.std),
}
"""What follows from several keys, or from a model."""
SHOWN = 3
"""Differences that a message lists."""


def check_one_pass(plans: Mapping[str, Plan], *, alone: str = "run them one by one") -> None:
    """Check that runs, by the name of their directories, can share their images and the outputs of their teachers.

    Students, losses, optimisers, `seed` and `bank` may differ, and a run may have no teacher. `alone` is what the error
    says of how to train them separately.
    Raises: RecipeError with the first keys that differ, or for a masked teacher.
    """
    (first, plan), *others = plans.items()
    for name, each in plans.items():
        for teacher in each.recipe.teachers:
            if teacher.masked:
                raise RecipeError(
                    f"{name} cannot train in one pass with others: teacher '{teacher.name}' is masked, and each "
                    "student chooses what it sees; set masked to 0, or run it alone"
                )
    for name, other in others:
        different = _differences(plan, other)
        if different:
            shown = [f"{key} ({_text(ours)} and {_text(theirs)})" for key, (ours, theirs) in different.items()]
            more = [f"{len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
            raise RecipeError(
                f"{first} and {name} cannot train in one pass, because they differ in "
                f"{', '.join(shown[:SHOWN] + more)}; give both the same values, or {alone}: with a bank, runs on the "
                "same images compute their targets once"
            )


def _differences(first: Plan, second: Plan) -> dict[str, tuple[Any, Any]]:
    """The keys in which two plans differ, with both values; without any, the facts, which may follow from the keys."""
    found = differences(_compared(first, second), _compared(second, first))
    facts = {name: (fact(first), fact(second)) for name, fact in FACTS.items()}
    return found or {name: values for name, values in facts.items() if values[0] != values[1]}


def _compared(plan: Plan, other: Plan) -> dict[str, Any]:
    """The keys of a plan that have to be equal; of the teachers only where both have some."""
    recipe = plan.recipe.model_dump(mode="json")
    tables = {table: {key: recipe[table][key] for key in keys} for table, keys in EQUAL_OF.items()}
    has_teachers = plan.recipe.teachers and other.recipe.teachers
    teachers = {teacher["name"]: teacher for teacher in recipe["teachers"]} if has_teachers else {}
    return {key: recipe[key] for key in EQUAL} | tables | {"teachers": teachers}


def _text(value: Any) -> str:
    return "not set" if value is None else shortened(str(value))
