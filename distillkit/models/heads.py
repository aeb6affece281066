"""Fusion and choice of a model's class head and distillation head."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distillkit.contracts.model import Model, ModelSpec, Outputs, Signal, Wanted
from distillkit.errors import BrokenPluginError, UserError


@dataclass(frozen=True)
class Answer:
    """The head that a student is evaluated by: "class", "distill" or "fused", and how "fused" combines the two.

    `idle` are the heads ("class", "distill") that no loss term trained.
    """

    head: str = "fused"
    fusion: str = "logits"
    idle: tuple[str, ...] = ()


def fuse(outputs: Outputs, head: str = "fused", fusion: str = "logits", *, model: str = "a model") -> Tensor:
    """Logits of one head, or of both heads fused. A model with one head always returns that head's logits.

    `model` is the subject of an error, such as "model 'deit-ti'".
    Shapes: [B, K], to be read as logits: their softmax is the prediction in every case.
    Raises: BrokenPluginError if the model returned no logits.
    Source: Touvron et al. 2021, arXiv:2012.12877, section 4 ("late fusion"): the sum of the two softmaxes, which is
        `fusion="softmax"`, here the logarithm of their mean. The authors' code and timm use the mean of the logits,
        `fusion="logits"`; the published accuracies are from that.
    """
    logits, distill_logits = outputs.logits, outputs.distill_logits
    if logits is None:
        raise BrokenPluginError(f"{model} was asked for its logits and returned none; its plugin breaks the contract")
    if distill_logits is None or head == "class":
        return logits
    if head == "distill":
        return distill_logits
    if fusion == "logits":
        return (logits + distill_logits) / 2
    # In log space, so that probabilities which underflow in float32 keep their logits: log((p + q) / 2).
    both = torch.logaddexp(torch.log_softmax(logits, dim=-1), torch.log_softmax(distill_logits, dim=-1))
    return both - math.log(2)


HEAD_NAMES = {"class": "class head", "distill": "distillation head"}


def check_head(head: str | None, spec: ModelSpec, answer: Answer, *, subject: str) -> None:
    """Refuse a `head` that the model does not have or that no loss term trained; None, the model's default, passes.

    Raises: UserError.
    """
    if head is not None and Signal.LOGITS not in spec.signals:
        raise UserError(f"{subject} has no trained class head: its output is the embedding; leave out --head")
    if head == "distill" and Signal.DISTILL_LOGITS not in spec.signals:
        raise UserError(f"{subject} has no distillation head; leave out --head or use --head class")
    # "fused" would mix in the untrained head.
    if answer.idle and (head in answer.idle or head == "fused"):
        trained = next(name for name in HEAD_NAMES if name not in answer.idle)
        idle = HEAD_NAMES[answer.idle[0]]
        raise UserError(f"no loss term trained the {idle} of {subject}; leave out --head or use --head {trained}")


def without_idle_heads(spec: ModelSpec, idle: tuple[str, ...]) -> ModelSpec:
    """The spec without logits if all heads are idle, so that logits of untrained heads are never evaluated.

    If a head is trained, or the model has none, the spec is returned unchanged.
    """
    heads = {"class", "distill"} if Signal.DISTILL_LOGITS in spec.signals else {"class"}
    return replace(spec, signals=spec.signals - {Signal.LOGITS, Signal.DISTILL_LOGITS}) if heads <= set(idle) else spec


class OneAnswer(nn.Module):
    """A model whose LOGITS are fused from its heads if it has two; teachers are wrapped in it.

    The other signals pass through; DISTILL_LOGITS is no longer revealed.
    Shapes: images [B, C, H, W] to logits [B, K].
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
            both[Signal.DISTILL_LOGITS] = ()  # the model's LOGITS are those of its class head alone
        outputs = self.model(images, both)
        if Signal.LOGITS not in wanted:
            return outputs
        logits = fuse(outputs, self.head, self.fusion, model=f"model '{self.spec.name}'")
        return replace(outputs, logits=logits, distill_logits=None)


def one_answer(spec: ModelSpec) -> ModelSpec:
    """The spec of a model wrapped in `OneAnswer`."""
    return replace(spec, signals=spec.signals - {Signal.DISTILL_LOGITS})
