"""Top-1 and top-5 accuracy of the heads of a model and of their fusions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.model import ModelSpec, Outputs, Signal, Wanted
from distillkit.models.heads import Answer, fuse
from distillkit.plugin.runtime_checks import forward_signals

Scored: TypeAlias = tuple[Mapping[str, Tensor], Tensor]
"""The scores [B, K] of each head and fusion by name, of the chosen one as "answer", and the labels [B]."""

CHOICES: dict[str, tuple[str, str]] = {
    "class": ("class", "logits"),
    "distill": ("distill", "logits"),
    "fused_logits": ("fused", "logits"),
    "fused_softmax": ("fused", "softmax"),
}
"""Figure name to (head, fusion); a student with one head has only the first."""


def answers(outputs: Outputs, answer: Answer) -> dict[str, Tensor]:
    """The scores [B, K] of each head and fusion that `outputs` allows, and of the chosen one as "answer"."""
    choices = CHOICES if outputs.distill_logits is not None else {"class": CHOICES["class"]}
    scores = {name: fuse(outputs, *choice) for name, choice in choices.items()}
    return scores | {"answer": fuse(outputs, answer.head, answer.fusion)}


@torch.no_grad()
def scored(
    model: nn.Module,
    spec: ModelSpec,
    batches: Iterable[tuple[Tensor, Tensor]],
    answer: Answer,
    *,
    precision: torch.dtype = torch.float32,
) -> Iterator[Scored]:
    """Scores [B, K] and labels for batches of (images [B, C, H, W], labels [B]); the model is in evaluation mode."""
    wanted: Wanted = {signal: () for signal in (Signal.LOGITS, Signal.DISTILL_LOGITS) if signal in spec.signals}
    for images, labels in batches:
        with torch.autocast(images.device.type, dtype=precision, enabled=precision is not torch.float32):
            outputs = forward_signals(model, images, wanted)
        yield answers(outputs, answer), labels


def top1(
    model: nn.Module,
    spec: ModelSpec,
    batches: Iterable[tuple[Tensor, Tensor]],
    answer: Answer,
    *,
    precision: torch.dtype = torch.float32,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Accuracy in percent over batches of (images [B, C, H, W], labels [B]): the figures of `tally`.

    The model is evaluated in evaluation mode; its mode is restored afterwards.
    """
    training = model.training
    model.eval()
    scores = scored(model, spec, batches, answer, precision=precision)
    figures = tally(scores, idle=answer.idle, processes=processes)
    model.train(training)
    return figures


def tally(batches: Iterable[Scored], *, idle: Sequence[str] = (), processes: Processes = ALONE) -> dict[str, float]:
    """Accuracy in percent over batches of (scores [B, K], labels [B]), over all processes.

    Returns `class_top1` and, with two heads, `distill_top1`, `fused_logits_top1`, `fused_softmax_top1`; `top1` and
    `top5` (with more than five classes) of the chosen answer; `loss`, its mean cross-entropy in nats; and `images`.
    Figures of idle heads and of fusions with them are left out, as is a loss that is not finite.
    Source: late fusion is DeiT (Touvron et al. 2021, arXiv:2012.12877), section 4.
    """
    totals: dict[str, Tensor] = {}
    images_seen = 0
    for scores, labels in batches:
        for name, value in _correct(scores, labels).items():
            totals[name] = totals[name] + value if name in totals else value
        images_seen += len(labels)
    # One read for all figures: each one waits for the device.
    read = torch.stack(list(totals.values())).tolist() if totals else []  # [figures]
    sums, images_seen = _sum_over(processes, dict(zip(totals, read, strict=True)), images_seen)
    if not images_seen:
        return {"images": 0.0}
    figures = {
        name: total / images_seen if name == "loss" else 100 * total / images_seen for name, total in sums.items()
    }
    left_out = {f"{name}_top1" for name in (*idle, *(("fused_logits", "fused_softmax") if idle else ()))}
    kept = {name: value for name, value in figures.items() if name not in left_out and math.isfinite(value)}
    return kept | {"images": float(images_seen)}


def _sum_over(processes: Processes, sums: Mapping[str, float], images: int) -> tuple[dict[str, float], int]:
    """Sums and number of images over all processes; a process without images has no sums."""
    gathered = [json.loads(text) for text in processes.gather(json.dumps([sums, images]))]
    names = dict.fromkeys(name for of_process, _ in gathered for name in of_process)
    totals = {name: sum(of_process.get(name, 0.0) for of_process, _ in gathered) for name in names}
    return totals, sum(count for _, count in gathered)


def _correct(scores: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Counts of correct predictions, and the summed cross-entropy of the chosen answer. Each []."""
    # All in float64: sums stay exact, and `tally` stacks them.
    counts = {
        "top1" if name == "answer" else f"{name}_top1": (score.argmax(dim=-1) == labels).sum().double()
        for name, score in scores.items()
    }
    answer = scores["answer"]
    if answer.shape[-1] > 5:
        # indices [B, 5] against labels [B, 1]
        counts["top5"] = (answer.topk(5, dim=-1).indices == labels[:, None]).any(dim=-1).sum().double()
    counts["loss"] = nn.functional.cross_entropy(answer.float(), labels, reduction="sum").double()
    return counts
