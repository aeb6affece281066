"""From the rows of all heads of a layer to the rows that two models with different heads can compare."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional

from distillkit import ModelSpec, RecipeError
from distillkit_plugins.losses.attention_rows import FLOOR, geometries

HeadAggregation: TypeAlias = Literal["mean", "group", "logsum"]


def check_heads(loss: str, student: ModelSpec, teacher: ModelSpec, heads: HeadAggregation) -> None:
    """Refuse to group heads that do not divide.

    Raises: RecipeError where the teacher's heads are not a whole multiple of the student's and `heads` is "group".
    """
    of_student, of_teacher = (geometry.heads for geometry in geometries(student, teacher))
    if heads == "group" and of_teacher % of_student:
        raise RecipeError(
            f"loss '{loss}': heads = \"group\" shares the teacher's heads out among the student's in equal groups, and "
            f"the {of_teacher} heads of '{teacher.name}' make no {of_student} equal groups for '{student.name}'; "
            'use "mean" or "logsum"'
        )


def aggregate_heads(rows: Tensor, heads: HeadAggregation, groups: int) -> Tensor:
    """One row per group of heads; one group, unless heads are grouped.

    Shapes: rows [..., H, N] become [..., G, N], with G = `groups` for "group" and 1 for the others.
    """
    if heads == "group":
        return group_heads(rows, groups)
    if heads == "logsum":
        return log_sum_heads(rows, temperature=rows.shape[-2])
    return group_heads(rows, 1)


def group_heads(rows: Tensor, groups: int) -> Tensor:
    """The mean of each of `groups` runs of consecutive heads: 12 heads in 3 groups are 0-3, 4-7, 8-11.

    Shapes: rows [..., H, N] become [..., groups, N]; H is a multiple of `groups`. One group is the mean of all.
    """
    *leading, heads, keys = rows.shape
    return rows.reshape(*leading, groups, heads // groups, keys).mean(dim=-2)


def log_sum_heads(rows: Tensor, temperature: float) -> Tensor:
    """What all heads agree on: softmax over the keys of sum over heads of log a, divided by the temperature.

    Shapes: rows [..., H, N] become [..., 1, N], a distribution. With a temperature of H it is the normalised geometric
        mean of the heads; a lower one sharpens it, by the power H / temperature.
    Source: Wang, Yang & van de Weijer 2022 (AttnDistill), arXiv:2210.00944, case (c): "log-sum" and softmax.
    Differs: entries below 1e-12 count as 1e-12; the authors' logarithm of an exact zero is minus infinity.
    """
    scores = rows.clamp(min=FLOOR).log().sum(dim=-2, keepdim=True)
    return functional.softmax(scores / temperature, dim=-1)
