"""A linear classifier that sees every training image anew in every epoch, as DINO trains it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillkit.evaluation import Subject, View
from distillkit_plugins.evaluators.linear_heads import LinearHeads


def train_on_augmented(
    subject: Subject, view: View, rates: Sequence[float], *, epochs: int, batch_size: int, seed: int
) -> LinearHeads:
    """Train a head per rate; the frozen model sees each augmented batch once, for all of them.

    Random resized crops of 8 to 100 % of the picture, bilinear, and flips; every rate falls to 0 along a cosine, epoch
    by epoch. An epoch has floor(images / batch) steps, at least one. Of several processes each looks at a part of every
    batch, and all train the same heads.
    Source: DINO's `eval_linear.py`.
    """
    width = view.width(subject.spec)
    heads = LinearHeads(width, subject.classes, rates, seed=seed).to(subject.device)
    windows = subject.augmented(epochs=epochs, batch_size=batch_size, seed=seed)
    wanted = view.wanted(subject.spec)
    optimizer = heads.optimizer(min(batch_size, len(subject.training)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for window in windows:
        with torch.no_grad():
            values = torch.cat([view.of(subject.model(batch.images, wanted)) for batch in window.micro_batches])
        labels = torch.cat([batch.labels.argmax(dim=1) for batch in window.micro_batches if batch.labels is not None])
        values, labels = subject.together(values), subject.together(labels)
        optimizer.zero_grad()
        heads.loss(values, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if window.ends_epoch:
            schedule.step()
    return heads
