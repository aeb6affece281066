"""One answer from a model with two heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distillkit.contracts.model import Model, ModelSpec, Outputs, Signal, Wanted
from distillkit.errors import BrokenPluginError, UserError


@dataclass(frozen=True)
class Answer:
    """Which of a student's answers counts: a head, how two are fused, and which heads ("class", "distill") are idle.

    An idle head is one that no term ever trained.
    """

    head: str = "fused"
    fusion: str = "logits"
    idle: tuple[str, ...] = ()


def fuse(outputs: Outputs, head: str = "fused", fusion: str = "logits") -> Tensor:
    """The answer that counts: of one head, or of both together. A model with one head answers with it in any case.

    Shapes: [B, K], logits-like: a softmax of it is a distribution in every case.
    Raises: BrokenPluginError where the model revealed no logits at all.
    Source: Touvron et al. 2021, arXiv:2012.12877, section 4 ("late fusion"): the sum of the two softmaxes, which is
        `fusion="softmax"`, here the logarithm of their mean. The authors' code and timm take the mean of the logits,
        `fusion="logits"`; the published accuracies are of that.
    """
    logits, distill_logits = outputs.logits, outputs.distill_logits
    if logits is None:
        raise BrokenPluginError("a model was asked for its logits and returned none; its plugin breaks the contract")
    if distill_logits is None or head == "class":
        return logits
    if head == "distill":
        return distill_logits
    if fusion == "logits":
        return (logits + distill_logits) / 2
    both = torch.logaddexp(torch.log_softmax(logits, dim=-1), torch.log_softmax(distill_logits, dim=-1))
    return both - math.log(2)


SPOKEN_HEADS = {"class": "class head", "distill": "distillation head"}


def check_head(head: str | None, spec: ModelSpec, answer: Answer, *, subject: str) -> None:
    """Refuse a `head` that a model lacks, or that no term ever trained; None is the model's own and always passes.

    Raises: UserError.
    """
    if head is not None and Signal.LOGITS not in spec.signals:
        raise UserError(
            f"{subject} has no class head that was trained: it answers with its embedding; leave out --head"
        )
    if head == "distill" and Signal.DISTILL_LOGITS not in spec.signals:
        raise UserError(f"{subject} has no distillation head; leave out --head or say --head class")
    if answer.idle and (head in answer.idle or head == "fused"):
        trained = next(name for name in SPOKEN_HEADS if name not in answer.idle)
        idle = SPOKEN_HEADS[answer.idle[0]]
        raise UserError(f"no term trained the {idle} of {subject}; leave out --head or say --head {trained}")


def without_idle_heads(spec: ModelSpec, idle: tuple[str, ...]) -> ModelSpec:
    """The description of a model whose heads are all idle: it reveals no logits, so nobody takes them for an answer.

    One that has a trained head, or none at all, stays as it is.
    """
    heads = {"class", "distill"} if Signal.DISTILL_LOGITS in spec.signals else {"class"}
    return replace(spec, signals=spec.signals - {Signal.LOGITS, Signal.DISTILL_LOGITS}) if heads <= set(idle) else spec


class OneAnswer(nn.Module):
    """A model whose LOGITS are its answer, fused from two heads where it has them. This is how a teacher speaks.

    The other signals pass through; DISTILL_LOGITS is no longer revealed.
    """

    def __init__(self, model: Model, *, head: str = "fused", fusion: str = "logits") -> None:
        super().__init__()
        self.model = model
        self.network = model.network
        self.load_report = getattr(model, "load_report", None)
        self.head = head
        self.fusion = fusion
        self.spec = one_answer(model.spec)

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        both = dict(wanted)
        if Signal.LOGITS in both and Signal.DISTILL_LOGITS in self.model.spec.signals:
            both[Signal.DISTILL_LOGITS] = ()
        outputs = self.model(images, both)
        if Signal.LOGITS not in wanted:
            return outputs
        return replace(outputs, logits=fuse(outputs, self.head, self.fusion), distill_logits=None)


def one_answer(spec: ModelSpec) -> ModelSpec:
    """The description of a model behind `OneAnswer`."""
    return replace(spec, signals=spec.signals - {Signal.DISTILL_LOGITS})
