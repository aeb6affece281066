"""Which head of a student the teacher speaks to, and what it says.

A student with a distillation token listens with its distillation head. One without listens with the class head, which
then learns from labels and teacher alike: what DeiT's paper calls "usual distillation" (Table 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillkit import BrokenPluginError, ModelSpec, Outputs, Signal

if TYPE_CHECKING:
    from torch import Tensor

HeadSignal = Literal[Signal.LOGITS, Signal.DISTILL_LOGITS]


def distillation_head(student: ModelSpec) -> HeadSignal:
    """The head that a loss on logits reads from this student."""
    return Signal.DISTILL_LOGITS if Signal.DISTILL_LOGITS in student.signals else Signal.LOGITS


def head_logits(outputs: Outputs, head: HeadSignal) -> Tensor:
    """The logits [B, K] of one head.

    Raises: BrokenPluginError where the model was asked for them and returned none.
    """
    logits = outputs.logits if head is Signal.LOGITS else outputs.distill_logits
    if logits is None:
        raise BrokenPluginError(f"a loss reads {head} and the model returned none; its plugin breaks the contract")
    return logits
