"""`knn`: accuracy of weighted k-nearest-neighbour classification on the model's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from distillkit import DataError
from distillkit.evaluation import ALONE, Features, Measurement, Processes, Subject, View
from distillkit_plugins.evaluators.options import NearestNeighboursOptions

DINO_CROP = 224 / 256
"""DINO evaluates on the centre 224 pixels of images resized to 256 (`eval_knn.py`, `eval_linear.py`)."""
DEFAULT_K = (10, 20, 100, 200)
QUERIES, BANK = 512, 16_384
"""Queries and bank images compared at once: 8 Mi similarities, which bounds the memory."""

Neighbours: TypeAlias = tuple[Tensor, Tensor]
"""Similarities [Q, k], descending, and positions in the bank [Q, k], for Q queries."""


class NearestNeighbours:
    """k-NN classifier: the k most similar training images vote, each with weight exp(similarity / temperature).

    Similarity is the cosine of the embeddings (the class token after the final norm, or the pooled feature).
    Source: DINO (Caron et al. 2021, arXiv:2104.14294), appendix F.1 and `eval_knn.py`; the rule is from Wu et al. 2018,
        arXiv:1805.01978, section 3.4.
    Differs: any number of images and classes. Among equally similar images the first in the bank count; among equal
        votes the first class wins; a class without votes is never among the top 5.
    """

    learns = True
    shares = True
    crop = DINO_CROP

    Options = NearestNeighboursOptions

    def __init__(self, options: NearestNeighboursOptions) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Measure the accuracy for every k.

        Raises: DataError for a k above the number of training images.
        """
        numbers, notes = chosen_k(self.options.k, len(subject.training), subject.training.name)
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
            notes=(*notes, *_held_out_note(subject)),
        )


def _held_out_note(subject: Subject) -> tuple[str, ...]:
    """A note on validation images that this protocol could compare with, but has no use for."""
    held = subject.validation
    if held is None or held.name != subject.training.name:
        return ()
    images = "1 training image is" if len(held) == 1 else f"{len(held):,} training images are"
    return (f"{images} held out for validation; --validation 0 compares with all of them",)


def chosen_k(given: Sequence[int] | None, images: int, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers of neighbours to use, ascending, and a note if some of the defaults are too large.

    Raises: DataError for a given number that is larger than the bank.
    """
    if given:
        largest = max(given)
        if largest > images:
            raise DataError(f"k = {largest:,} is larger than the {images:,} labelled images of '{name}'; lower --k")
        return tuple(sorted(set(given))), ()
    fitting = tuple(k for k in DEFAULT_K if k <= images) or (images,)
    skipped = [f"{k}" for k in DEFAULT_K if k > images]
    note = f"skipped k = {', '.join(skipped)}: '{name}' has only {images:,} labelled images"
    return fitting, (note,) if skipped else ()


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
    """Accuracy in percent for every k, ascending: `k`, `top1` and, with more than five classes, `top5`.

    With several processes, each handles some of the query batches; the batches are the same as with one process.
    """
    normalised = functional.normalize(bank.values)  # [N, D]
    # One tensor for all k, so it must not be changed in place below.
    right: dict[int, Tensor] = dict.fromkeys(numbers, torch.zeros(5, dtype=torch.int64))
    for start in range(0, len(queries), QUERIES)[processes.rank :: processes.world]:
        part = functional.normalize(queries.values[start : start + QUERIES])  # [Q, D]
        labels = queries.labels[start : start + QUERIES]
        similarities, positions = nearest(normalised, part, max(numbers), device=device)
        for k in numbers:
            votes = vote(similarities[:, :k], bank.labels[positions[:, :k]], temperature, classes)
            ranks = rank(votes, labels)
            right[k] = right[k] + torch.stack([(ranks <= last).sum() for last in range(5)])  # [5]: top 1 to top 5
    counted = {k: (100 * processes.count(hits).double() / len(queries)).tolist() for k, hits in right.items()}
    return tuple(
        {"k": k, "top1": shares[0]} | ({"top5": shares[4]} if classes > 5 else {}) for k, shares in counted.items()
    )


def nearest(bank: Tensor, queries: Tensor, k: int, *, device: torch.device | None = None) -> Neighbours:
    """Nearest neighbours by inner product: the k best rows of `bank` for each query, on the CPU.

    Shapes: bank [N, D] and queries [Q, D] -> similarities and positions [Q, k]. At most Q x BANK products are held at
    once.
    """
    queries = queries.to(device)
    # topk does not define the order of equal values. So each product and its position are packed into one int64, the
    # product in the upper bits; equal products then rank in the order of the bank, on every device.
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(bank), BANK):
        part = bank[start : start + BANK].to(device)
        products = queries @ part.T  # [Q, BANK]
        positions = torch.arange(start, start + len(part), device=device)
        # _LAST - position, because topk keeps the largest keys and the first position must win.
        keys = _ordered(products).bitwise_left_shift_(32).bitwise_or_(_LAST - positions)
        best = torch.cat([best, keys], dim=1).topk(min(k, best.shape[1] + keys.shape[1]), dim=1).values  # [Q, k]
    return _products(best >> 32).cpu(), (_LAST - (best & _LAST)).cpu()


def vote(similarities: Tensor, labels: Tensor, temperature: float, classes: int) -> Tensor:
    """Votes per class: the sum of exp(similarity / temperature) over its neighbours, up to a factor per row.

    Shapes: similarities, largest first, and labels [Q, k] -> [Q, K].
    """
    # The largest similarity is subtracted so that exp cannot overflow; it cancels in the comparison of classes.
    weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
    return torch.zeros(len(labels), classes, dtype=torch.float64).scatter_add_(1, labels, weights)


def rank(votes: Tensor, labels: Tensor) -> Tensor:
    """Rank of the right class from 0: the number of classes with more votes, or as many and a lower index.

    A class without votes has rank K.
    Shapes: votes [Q, K], labels [Q] -> [Q].
    """
    label_votes = votes.gather(1, labels[:, None])  # [Q, 1]
    is_lower = torch.arange(votes.shape[1]) < labels[:, None]  # [Q, K]
    before = (votes > label_votes) | ((votes == label_votes) & is_lower)  # [Q, K]
    return torch.where(label_votes[:, 0] > 0, before.sum(dim=1), votes.shape[1])


_LAST = 0xFFFF_FFFF


def _ordered(values: Tensor) -> Tensor:
    """int64 numbers in the order of float32 values, any shape: the bits, inverted below the sign if negative."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    inverted = (bits >> 31).bitwise_and_(0x7FFF_FFFF)
    return inverted.bitwise_xor_(bits).long()


def _products(ordered: Tensor) -> Tensor:
    """Inverse of `_ordered`: the float32 values."""
    bits = ordered.int()
    return (bits ^ ((bits >> 31) & 0x7FFF_FFFF)).view(torch.float32)
