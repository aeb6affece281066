"""DINO's linear probe: train on newly augmented images in every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillkit.evaluation import Subject, View
from distillkit_plugins.evaluators.linear_heads import AfterEpoch, LinearHeads


def train_on_augmented(  # noqa: PLR0913 - the settings of the protocol
    subject: Subject,
    view: View,
    rates: Sequence[float],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    after_epoch: AfterEpoch | None = None,
) -> LinearHeads:
    """Train one linear head per learning rate; the frozen model runs once per augmented batch, for all heads.

    Augmentation: random resized crops of 8 to 100 % of the image, bilinear, and horizontal flips. Every learning rate
    decays to 0 along a cosine, once per epoch. An epoch has floor(images / batch size) steps, at least one. With
    several processes, each runs the model on a part of every batch, and all train the same heads.
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
            values = torch.cat(
                [view.of(subject.model(batch.images, wanted)) for batch in window.micro_batches]
            )  # [B, D]
        labels = torch.cat([batch.labels.argmax(dim=1) for batch in window.micro_batches if batch.labels is not None])
        values, labels = subject.together(values), subject.together(labels)  # those of all processes
        optimizer.zero_grad()
        heads.loss(values, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if window.ends_epoch:
            schedule.step()
            if after_epoch is not None:
                after_epoch(heads)
    return heads
