"""The student head that is distilled: the distillation head, or the class head where there is no distillation head.

A class head then learns from both the labels and the teacher, which DeiT's paper calls "usual distillation" (Table 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillkit import BrokenPluginError, ModelSpec, Outputs, Signal

if TYPE_CHECKING:
    from torch import Tensor

HeadSignal = Literal[Signal.LOGITS, Signal.DISTILL_LOGITS]


def distillation_head(student: ModelSpec) -> HeadSignal:
    """The student head that a logit loss reads: distillation head, else class head."""
    return Signal.DISTILL_LOGITS if Signal.DISTILL_LOGITS in student.signals else Signal.LOGITS


def head_logits(outputs: Outputs, head: HeadSignal) -> Tensor:
    """The logits [B, K] of one head.

    Raises: BrokenPluginError if the model did not return the logits it was asked for.
    """
    logits = outputs.logits if head is Signal.LOGITS else outputs.distill_logits
    if logits is None:
        raise BrokenPluginError(f"a loss reads {head} and the model returned none; its plugin breaks the contract")
    return logits
