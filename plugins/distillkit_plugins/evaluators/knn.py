"""`knn`: whether images of one class lie together in the model's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from distillkit import DataError
from distillkit.evaluation import ALONE, Features, Measurement, Processes, Subject, View

DEFAULT_K = (10, 20, 100, 200)
QUERIES, BANK = 512, 16_384
"""Images that are compared at once, 8 Mi similarities: what bounds the memory."""

Neighbours: TypeAlias = tuple[Tensor, Tensor]
"""Similarities [q, k], descending, and positions in the bank [q, k]."""


class NearestNeighbours:
    """A vote of the k training images that are most alike, each weighted with exp(similarity / temperature).

    Similarity is the cosine of the embeddings (the class token after the final norm, or the pooled feature).
    Source: DINO (Caron et al. 2021, arXiv:2104.14294), appendix F.1 and `eval_knn.py`; the rule is of Wu et al. 2018,
        arXiv:1805.01978, section 3.4.
    Differs: any number of images and classes; of equally similar images the first in the bank count; among equal
        votes the first class wins; a class without a vote is never among the top 5.
    """

    learns = True
    shares = True

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """How many neighbours, and how much the near ones count."""

        k: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(
            None, strict=False, description="numbers of neighbours; 10, 20, 100 and 200, as far as there are so many"
        )
        temperature: Annotated[float, Field(gt=0)] = Field(0.07, description="the smaller, the more the nearest count")

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Raises: DataError for a k that is larger than the number of training images."""
        numbers, left_out = chosen_k(self.options.k, len(subject.training), subject.training.name)
        bank = subject.features(subject.training, View())
        queries = subject.features(subject.measured, View())
        rows = knn_accuracy(
            bank,
            queries,
            numbers,
            self.options.temperature,
            classes=subject.classes,
            device=subject.device,
            processes=subject.processes,
        )
        figures = {f"k{row['k']:.0f}_{name}": value for row in rows for name, value in row.items() if name != "k"}
        return Measurement(
            title=f"k-NN among {len(bank):,} training images, votes weighted (DINO's protocol)",
            figures=figures | {"images": float(len(queries))},
            rows=rows,
            settings={"k": numbers, "temperature": self.options.temperature, "training_images": len(bank)},
            notes=left_out,
        )


def chosen_k(asked: Sequence[int] | None, images: int, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The numbers of neighbours to try, ascending, and a note on those of the default that are too large.

    Raises: DataError for a number that was asked for and is larger than the bank.
    """
    if asked:
        largest = max(asked)
        if largest > images:
            raise DataError(f"k = {largest:,} is larger than the {images:,} labelled images of '{name}'; lower --k")
        return tuple(sorted(set(asked))), ()
    fitting = tuple(k for k in DEFAULT_K if k <= images) or (images,)
    without = [f"{k}" for k in DEFAULT_K if k > images]
    note = f"left out: k = {', '.join(without)}, more than the {images:,} labelled images of '{name}'"
    return fitting, (note,) if without else ()


def knn_accuracy(  # noqa: PLR0913 - where it is computed
    bank: Features,
    queries: Features,
    numbers: Sequence[int],
    temperature: float,
    *,
    classes: int,
    device: torch.device | None = None,
    processes: Processes = ALONE,
) -> tuple[dict[str, float], ...]:
    """For every k, ascending, the accuracy in percent: `k`, `top1` and, of more than five classes, `top5`.

    Of several processes each asks for some of the queries, in the same parts as one.
    """
    normalised = functional.normalize(bank.values)
    right: dict[int, Tensor] = dict.fromkeys(numbers, torch.zeros(5, dtype=torch.int64))
    for start in range(0, len(queries), QUERIES)[processes.rank :: processes.world]:
        part = functional.normalize(queries.values[start : start + QUERIES])
        labels = queries.labels[start : start + QUERIES]
        similarities, positions = nearest(normalised, part, max(numbers), device=device)
        for k in numbers:
            votes = vote(similarities[:, :k], bank.labels[positions[:, :k]], temperature, classes)
            # Places 0 to 4; a place is taken from what stands before it.
            places = place(votes, labels)
            right[k] = right[k] + torch.stack([(places <= last).sum() for last in range(5)])
    counted = {k: (100 * processes.count(hits).double() / len(queries)).tolist() for k, hits in right.items()}
    return tuple(
        {"k": k, "top1": shares[0]} | ({"top5": shares[4]} if classes > 5 else {}) for k, shares in counted.items()
    )


def nearest(bank: Tensor, queries: Tensor, k: int, *, device: torch.device | None = None) -> Neighbours:
    """The k rows of `bank` [n, D] with the largest inner product for each of `queries` [q, D], on the host.

    No more than q x BANK products are held at once. Equal ones come in the order of the bank, on every device: what
    is sorted is one whole number per pair, the bits of the product above the bits of the position.
    """
    queries = queries.to(device)
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(bank), BANK):
        part = bank[start : start + BANK].to(device)
        products = queries @ part.T
        positions = torch.arange(start, start + len(part), device=device)
        keys = _ordered(products).bitwise_left_shift_(32).bitwise_or_(_LAST - positions)
        best = torch.cat([best, keys], dim=1).topk(min(k, best.shape[1] + keys.shape[1]), dim=1).values
    return _products(best >> 32).cpu(), (_LAST - (best & _LAST)).cpu()


def vote(similarities: Tensor, labels: Tensor, temperature: float, classes: int) -> Tensor:
    """The sum of exp(similarity / temperature) over the neighbours of each class, up to a factor of each row.

    Shapes: similarities, the largest first, and labels [q, k], to [q, K].
    """
    weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
    return torch.zeros(len(labels), classes, dtype=torch.float64).scatter_add_(1, labels, weights)


def place(votes: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one: more votes, or as many and a lower number; K where it has none.

    Shapes: votes [q, K], labels [q], to [q].
    """
    own = votes.gather(1, labels[:, None])
    before = (votes > own) | ((votes == own) & (torch.arange(votes.shape[1]) < labels[:, None]))
    return torch.where(own[:, 0] > 0, before.sum(dim=1), votes.shape[1])


_LAST = 0xFFFF_FFFF


def _ordered(values: Tensor) -> Tensor:
    """Whole numbers, int64, in the same order as float32 values: the bits, those below the sign of negatives turned."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    turned = (bits >> 31).bitwise_and_(0x7FFF_FFFF)
    return turned.bitwise_xor_(bits).long()


def _products(ordered: Tensor) -> Tensor:
    """The float32 values of `_ordered`."""
    bits = ordered.int()
    return (bits ^ ((bits >> 31) & 0x7FFF_FFFF)).view(torch.float32)
