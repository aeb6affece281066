"""Head aggregation: make attention rows of models with different numbers of heads comparable."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from distillkit import ModelSpec, RecipeError
from distillkit_plugins.losses.attention_rows import FLOOR, geometries
from distillkit_plugins.losses.options import HeadAggregation


def check_heads(loss: str, student: ModelSpec, teacher: ModelSpec, heads: HeadAggregation) -> None:
    """Check that the heads can be grouped.

    Raises: RecipeError if `heads` is "group" and the teacher's heads are not a multiple of the student's.
    """
    student_heads, teacher_heads = (geometry.heads for geometry in geometries(student, teacher))
    if heads == "group" and teacher_heads % student_heads:
        raise RecipeError(
            f"loss '{loss}': heads = \"group\" needs a teacher whose number of heads is a multiple of the student's; "
            f"teacher '{teacher.name}' has {teacher_heads} heads and student '{student.name}' has {student_heads}; "
            'use heads = "mean" or "logsum"'
        )


def aggregate_heads(rows: Tensor, heads: HeadAggregation, groups: int) -> Tensor:
    """Aggregate heads with one of the methods of the option `heads`.

    Shapes: rows [..., A, N] -> [..., G, N], with G = `groups` for "group" and 1 for the others.
    """
    if heads == "group":
        return group_heads(rows, groups)
    if heads == "logsum":
        # The number of heads as the temperature makes the result a geometric mean.
        return log_sum_heads(rows, temperature=rows.shape[-2])
    return group_heads(rows, 1)


def group_heads(rows: Tensor, groups: int) -> Tensor:
    """Mean over groups of consecutive heads: 12 heads in 3 groups are 0-3, 4-7, 8-11.

    Shapes: rows [..., A, N] -> [..., groups, N]; A is a multiple of `groups`. One group is the mean over all heads.
    """
    *leading, heads, keys = rows.shape
    grouped = rows.reshape(*leading, groups, heads // groups, keys)  # [..., G, A / G, N]
    return grouped.mean(dim=-2)  # [..., G, N]


def log_sum_heads(rows: Tensor, temperature: float) -> Tensor:
    """Log-sum aggregation: softmax over the keys of (sum over heads of log a) / temperature.

    With temperature = A it is the normalised geometric mean of the heads; a lower temperature sharpens it by the power
    A / temperature.
    Shapes: rows [..., A, N] -> [..., 1, N], a distribution over the keys.
    Source: Wang, Yang & van de Weijer 2022 (AttnDistill), arXiv:2210.00944, case (c): "log-sum" and softmax.
    Differs: entries are floored at 1e-12; in the authors' code the logarithm of an exact zero is minus infinity.
    """
    scores = rows.clamp(min=FLOOR).log().sum(dim=-2, keepdim=True)  # [..., 1, N]
    return functional.softmax(scores / temperature, dim=-1)  # [..., 1, N]
