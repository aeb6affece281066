"""Linear classifiers trained at the same time on the same features, one per learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillkit.evaluation import Features

SCORED = 1024
"""Batch size of the accuracy, which bounds the memory of the scores."""
AfterEpoch: TypeAlias = "Callable[[LinearHeads], None]"
"""Called with the heads after every epoch of their training."""


class LinearHeads(nn.Module):
    """One linear layer [K, D] per learning rate; all start from the same weights, N(0, 0.01^2), and zero biases.

    The heads are independent: the loss is the sum of theirs, so a head that diverges does not change the others.
    Shapes: R learning rates; features [B, D] -> scores [B, R, K].
    """

    def __init__(self, width: int, classes: int, rates: Sequence[float], *, seed: int) -> None:
        super().__init__()
        # The same start for every head, so that they differ in their learning rate only.
        start = 0.01 * torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))
        self.rates = tuple(rates)
        self.weights = nn.ParameterList(nn.Parameter(start.clone()) for _ in rates)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(classes)) for _ in rates)

    def forward(self, values: Tensor) -> Tensor:
        """Scores of every head: values [B, D] -> [B, R, K]."""
        weight, bias = torch.cat(list(self.weights)), torch.cat(list(self.biases))  # [R * K, D], [R * K]
        return functional.linear(values, weight, bias).view(len(values), len(self.rates), -1)  # [B, R, K]

    def loss(self, values: Tensor, labels: Tensor) -> Tensor:
        """Sum over the heads of the mean cross-entropy: values [B, D] and labels [B] -> []."""
        scores = self(values).flatten(0, 1)  # [B * R, K]
        repeated = labels.repeat_interleave(len(self.rates))  # [B * R]
        return functional.cross_entropy(scores, repeated, reduction="sum") / len(labels)

    def optimizer(self, batch_size: int) -> torch.optim.SGD:
        """SGD with momentum 0.9 and no weight decay; every learning rate is scaled by batch_size / 256."""
        groups = [
            {"params": [weight, bias], "lr": rate * batch_size / 256}
            for rate, weight, bias in zip(self.rates, self.weights, self.biases, strict=True)
        ]
        return torch.optim.SGD(groups, momentum=0.9)


def train_on_cached(  # noqa: PLR0913 - the settings of the protocol
    features: Features,
    classes: int,
    rates: Sequence[float],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    after_epoch: AfterEpoch | None = None,
) -> LinearHeads:
    """Train one head per learning rate on cached features, in seeded order.

    The learning rates decay to 0 along a cosine, step by step. The last batch of an epoch may be smaller.
    """
    heads = LinearHeads(features.values.shape[1], classes, rates, seed=seed).to(device)
    # The learning rate is scaled by the batch size, so that must be the real one.
    batch_size = min(batch_size, len(features))
    optimizer = heads.optimizer(batch_size)
    steps = epochs * -(-len(features) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(features), generator=draw), batch_size):
            optimizer.zero_grad()
            loss = heads.loss(features.values[chosen].to(device), features.labels[chosen].to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if after_epoch is not None:
            after_epoch(heads)
    return heads


@torch.no_grad()
def head_accuracy(heads: LinearHeads, features: Features, device: torch.device) -> tuple[dict[str, float], ...]:
    """Accuracy of every head in percent: `top1` and, with more than five classes, `top5`."""
    right: dict[str, Tensor] = {}
    parts = zip(torch.split(features.values, SCORED), torch.split(features.labels, SCORED), strict=True)
    for values, labels in parts:
        # argmax and topk treat NaN as the largest value.
        scores = heads(values.to(device)).cpu().nan_to_num(nan=-torch.inf)  # [B, R, K]
        hits = {"top1": scores.argmax(dim=2) == labels[:, None]}  # [B, R]
        if scores.shape[2] > 5:
            hits["top5"] = (scores.topk(5, dim=2).indices == labels[:, None, None]).any(dim=2)  # [B, R]
        for name, each in hits.items():
            right[name] = right.get(name, torch.zeros(len(heads.rates))).double() + each.sum(dim=0)
    shares = {name: (100 * count / len(features)).tolist() for name, count in right.items()}
    return tuple({name: values[head] for name, values in shares.items()} for head in range(len(heads.rates)))
