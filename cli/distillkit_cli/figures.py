"""Accuracies as text: split, head, number of images."""

from __future__ import annotations

from collections.abc import Mapping

from distillkit.messages.text import counted

HEADS = {
    "class_top1": "class head",
    "distill_top1": "distillation head",
    "fused_logits_top1": "mean of logits",
    "fused_softmax_top1": "sum of softmaxes",
    "top5": "top 5",
    "real_top1": "ReaL labels",
    "best_epoch_top1": "best epoch",
}


def figure_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """One row per split of `<split>/<figure>`, in percent, and one for the best checkpoint where there is one."""
    splits: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        split, _, name = key.rpartition("/")
        splits.setdefault(split, {})[name] = value
    best = splits.pop("best", None)
    rows = [(_heading(split), accuracy(values)) for split, values in splits.items() if "top1" in values]
    if best:
        rows.append(("best", f"{best['validation_top1']:.2f} % on validation, after step {best['step']:,.0f}"))
    return rows


def accuracy(figures: Mapping[str, float]) -> str:
    """The student's accuracy, then that of each head: "96.20 % of 500 images (class head 95.80, ...)"."""
    images = f" of {counted(int(figures['images']), 'image')}" if "images" in figures else ""
    # With a single head the accuracy of that head is the student's own; do not print it twice.
    hidden = set() if "distill_top1" in figures else {"class_top1"}
    others = [f"{head} {figures[name]:.2f}" for name, head in HEADS.items() if name in figures and name not in hidden]
    return f"{figures['top1']:.2f} %{images}" + (f" ({', '.join(others)})" if others else "")


def _heading(split: str) -> str:
    return split.replace("/ema", ", EMA") or "top 1"
