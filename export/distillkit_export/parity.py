"""Does the exported file say what the model says? Measured on images, batch by batch, and gated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.counting import counted
from distillkit.errors import GateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.exporting import Scorer
    from distillkit_export.pictures import Pictures

BATCHES = (1, 2, 7, 32)
"""Batch sizes that are measured. One and two catch a batch that was folded away, an odd one a batch that was frozen to
an even one, and thirty-two is a served one."""


@dataclass(frozen=True)
class BatchParity:
    """How far exported scores are from torch's, over all batches of one size.

    `max_relative` is max |exported - torch| / max |torch| over the batch, `min_cosine` the least cosine between the two
    score vectors of an image, `top1_agreement` the share of images with the same best class, from 0 to 1.
    """

    batch: int
    finite: bool
    max_absolute: float
    max_relative: float
    min_cosine: float
    top1_agreement: float


@dataclass(frozen=True)
class Parity:
    """All measured batches of one exported file, against one limit."""

    largest_relative_difference: float
    batches: tuple[BatchParity, ...]
    images: str
    image_count: int
    weak: bool

    @property
    def max_relative(self) -> float:
        """The worst relative difference of all batches."""
        return max(batch.max_relative for batch in self.batches)

    @property
    def passed(self) -> bool:
        """Every score is finite and every batch keeps to the limit."""
        return all(batch.finite for batch in self.batches) and self.max_relative <= self.largest_relative_difference

    def require(self, file: str) -> None:
        """Raise GateError with the figure and the limit where the gate is not passed."""
        for batch in self.batches:
            if not batch.finite:
                raise GateError(f"{file} answers a batch of {batch.batch} with numbers that are not finite")
        if not self.passed:
            worst = max(self.batches, key=lambda batch: batch.max_relative)
            raise GateError(
                f"{file} differs from torch by {worst.max_relative:.2g} of the largest score at batch {worst.batch}, "
                f"the limit is {self.largest_relative_difference:.2g}"
            )

    def as_dict(self) -> dict[str, Any]:
        """What parity.json holds of this file."""
        return {
            "passed": self.passed,
            "limit": {"max_relative": self.largest_relative_difference},
            "max_relative": _finite(self.max_relative),
            "images": {"source": self.images, "count": self.image_count, "weak": self.weak},
            "batches": [{key: _finite(figure) for key, figure in asdict(batch).items()} for batch in self.batches],
        }

    def lines(self) -> list[str]:
        """A table, one line per measured batch."""
        rows = [f"{'batch':>5}  {'max abs':>8}  {'max rel':>8}  {'min cosine':>10}  {'top-1 agreement':>15}"]
        rows.extend(
            f"{batch.batch:>5}  {batch.max_absolute:>8.1e}  {batch.max_relative:>8.1e}  {batch.min_cosine:>10.7f}"
            f"  {batch.top1_agreement:>15.1%}"
            for batch in self.batches
        )
        weak = "; weak: give real validation data for a stronger check" if self.weak else ""
        verdict = "passed" if self.passed else "failed"
        rows.append(
            f"parity {verdict}: {self.max_relative:.1e} of the largest score, limit "
            f"{self.largest_relative_difference:.0e}, on {counted(self.image_count, 'image')} ({self.images}){weak}"
        )
        return rows


def measure(reference: Scorer, exported: Scorer, pictures: Pictures, largest_relative_difference: float) -> Parity:
    """Ask both the same batches of sizes `BATCHES`, the last size until the images are used up; the worst counts.

    Batches of images of other sizes come after them.

    Raises: GateError where the model itself answers with numbers that are not finite, or the shapes differ.
    """
    by_size: dict[int, list[BatchParity]] = {}
    for images in (*_batches(pictures.pixels), *pictures.others):
        expected = reference(images)
        if not np.isfinite(expected).all():
            raise GateError(
                "the model itself answers with numbers that are not finite, so nothing can be compared; "
                "export another checkpoint or train it again"
            )
        by_size.setdefault(len(images), []).append(compare(expected, exported(images)))
    batches = tuple(_worst(by_size[size]) for size in sorted(by_size))
    return Parity(largest_relative_difference, batches, pictures.source, len(pictures.pixels), weak=pictures.weak)


def compare(reference: NDArray[np.float32], exported: NDArray[np.float32]) -> BatchParity:
    """Compare two score arrays [B, K] in float64. Where torch's scores are all zero, so must be the exported ones."""
    expected, actual = reference.astype(np.float64), exported.astype(np.float64)
    if expected.shape != actual.shape:
        raise GateError(f"the exported file answers with shape {list(actual.shape)}, torch with {list(expected.shape)}")
    finite = bool(np.isfinite(actual).all())
    absolute = float(np.abs(actual - expected).max())
    scale = float(np.abs(expected).max())
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    same = (expected == actual).all(axis=1)
    cosine = np.divide((expected * actual).sum(axis=1), lengths, out=same.astype(np.float64), where=lengths > 0)
    return BatchParity(
        batch=len(expected),
        finite=finite,
        max_absolute=absolute,
        max_relative=absolute / scale if scale > 0 else (0.0 if absolute == 0 else float("inf")),
        min_cosine=float(cosine.min()),
        top1_agreement=float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean()),
    )


def _worst(batches: Sequence[BatchParity]) -> BatchParity:
    """Batches of one size as one; of the agreement the mean, which is that of all their images."""
    return BatchParity(
        batch=batches[0].batch,
        finite=all(batch.finite for batch in batches),
        max_absolute=max(batch.max_absolute for batch in batches),
        max_relative=max(batch.max_relative for batch in batches),
        min_cosine=min(batch.min_cosine for batch in batches),
        top1_agreement=sum(batch.top1_agreement for batch in batches) / len(batches),
    )


def _batches(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Consecutive images, in batches of these sizes alone; where the images run out, they come round again."""
    start = 0
    for size in BATCHES:
        yield np.take(pixels, range(start, start + size), axis=0, mode="wrap")
        start += size
    while start < len(pixels):
        yield np.take(pixels, range(start, start + BATCHES[-1]), axis=0, mode="wrap")
        start += BATCHES[-1]


def _finite(figure: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return figure if math.isfinite(figure) else None
