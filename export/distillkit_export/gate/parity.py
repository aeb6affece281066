"""Does the exported file say what the model says? Measured on images, batch by batch, and held against the limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import GateError
from distillkit.messages.text import counted
from distillkit_export.agreement import Accuracy, Difference, accuracy, difference
from distillkit_export.gate.limits import DEFAULT, Limits
from distillkit_export.images.gate_images import BATCHES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Precision, Scorer
    from distillkit_export.images.gate_images import Pictures

CHANCE = 2.33
"""Standard errors that chance exceeds once in a hundred times."""


@dataclass(frozen=True)
class Evidence:
    """What files are compared with: images as the file takes them, and the model's own answers to them, [n, K].

    `reference` names who gave the answers, `classes` says whether they are scores of classes, not an embedding.
    `others` are the answers to the pictures' batches of other sizes. Where the images are a `sample` of those that the
    gate looked at, a share that breaks its limit by chance is no failure. `note` is what the model's own answers show,
    whatever a file says.
    """

    pictures: Pictures
    answers: NDArray[np.float32]
    reference: str
    classes: bool = True
    others: tuple[NDArray[np.float32], ...] = ()
    sample: bool = False
    note: str = ""


@dataclass(frozen=True)
class Parity:
    """The figures of one file, by batch size and over all, against the limits of its precision."""

    precision: Precision
    limits: Limits
    overall: Difference
    batches: dict[int, Difference]
    images: str
    image_count: int
    weak: bool
    accuracy: Accuracy | None = None
    sample: bool = False

    @property
    def max_relative(self) -> float:
        """The worst relative difference of all batches."""
        return max(batch.max_relative for batch in self.batches.values())

    @property
    def passed(self) -> bool:
        """Every answer is finite and every figure keeps to its limit."""
        return not self.failures()

    def failures(self) -> list[str]:
        """What does not keep to its limit, a sentence without its subject each: which figure, how much, which limit."""
        broken = [size for size, batch in self.batches.items() if not batch.finite]
        if broken:
            return [f"answers a batch of {broken[0]} with numbers that are not finite"]
        return [*self._against_relative(), *self._against_noise(), *self._against_classes()]

    def _against_relative(self) -> Iterator[str]:
        limit = self.limits.max_relative
        if limit is not None and self.max_relative > limit:
            size = max(self.batches, key=lambda size: self.batches[size].max_relative)
            yield (
                f"differs from torch by {self.max_relative:.2g} of the largest score at batch {size}, "
                f"the limit is {limit:.2g}"
            )

    def _against_noise(self) -> Iterator[str]:
        if self.overall.sqnr_db < self.limits.min_sqnr_db:
            least = self.limits.min_sqnr_db
            yield f"has {self.overall.sqnr_db:.1f} dB of signal over noise, at least {least:g} dB are asked"
        # Where there are classes, one image whose scores are all near zero says nothing; the agreement below does.
        if self.overall.top1_agreement is None and self.overall.min_cosine < self.limits.min_cosine:
            yield (
                f"has an embedding at a cosine of {self.overall.min_cosine:.5f} to torch's, at least "
                f"{self.limits.min_cosine:g} is asked"
            )

    def _against_classes(self) -> Iterator[str]:
        agreement, wrong, count = self.overall.top1_agreement, 1 - self.limits.min_agreement, self.image_count
        chance = CHANCE * math.sqrt(wrong * (1 - wrong) / count) if self.sample else 0.0
        if agreement is not None and 1 - agreement > max(wrong + chance, 1 / count) + 1e-9:
            yield (
                f"agrees with torch on the best class of {agreement:.1%} of {counted(self.image_count, 'image')}, "
                f"at least {self.limits.min_agreement:.1%} is asked"
            )
        measured = self.accuracy
        if measured is None:
            return
        chance = CHANCE * measured.drop_error if self.sample else 0.0
        if measured.drop > max(self.limits.max_accuracy_drop + chance, 100 / measured.images) + 1e-9:
            yield (
                f"is right on {measured.file:.1f} % of {counted(measured.images, 'labelled image')} where torch is on "
                f"{measured.model:.1f} %, a loss of {measured.drop:.1f} ± {measured.drop_error:.1f} points, the limit "
                f"is {self.limits.max_accuracy_drop:g}"
            )

    def as_dict(self) -> dict[str, Any]:
        """What parity.json holds of this file."""
        scored = self.accuracy
        return {
            "passed": self.passed,
            "failures": self.failures(),
            "limits": asdict(self.limits),
            **_figures(self.overall),
            "max_relative": _finite(self.max_relative),
            "accuracy": None
            if scored is None
            else {**asdict(scored), "drop": scored.drop, "drop_error": scored.drop_error},
            "images": {"source": self.images, "count": self.image_count, "weak": self.weak},
            "batches": [{"batch": size, **_figures(batch)} for size, batch in self.batches.items()],
        }


def evidence(reference: Scorer, pictures: Pictures, name: str, *, classes: bool = True) -> Evidence:
    """Ask the model itself.

    Raises: GateError where it answers with numbers that are not finite.
    """
    size, count = BATCHES[-1], len(pictures.pixels)
    batches = [
        reference(pictures.pixels[np.arange(start, min(start + size, count))]) for start in range(0, count, size)
    ]
    answers, others = np.concatenate(batches), tuple(reference(images) for images in pictures.others)
    if not all(np.isfinite(scores).all() for scores in (answers, *others)):
        raise GateError(
            "the model itself answers with numbers that are not finite, so nothing can be compared; "
            "export another checkpoint or train it again"
        )
    return Evidence(pictures, answers, name, classes, others)


def measure(exported: Scorer, against: Evidence, precision: Precision = "fp32", limits: Limits | None = None) -> Parity:
    """Ask a file the images in batches of sizes `BATCHES`, the last size until they are used up; the worst counts.

    Batches of images of other sizes come after them.

    Raises: GateError where the file answers with another shape.
    """
    pictures, count = against.pictures, len(against.pictures.pixels)
    by_size: dict[int, list[Difference]] = {}
    answers = np.full_like(against.answers, np.nan)
    for indices in _batches(count):
        scores = exported(pictures.pixels[indices])
        found = difference(against.answers[indices], scores, classes=against.classes)
        by_size.setdefault(len(indices), []).append(found)
        answers[indices] = scores
    for images, expected in zip(pictures.others, against.others, strict=True):
        found = difference(expected, exported(images), classes=against.classes)
        by_size.setdefault(len(images), []).append(found)
    return Parity(
        precision=precision,
        limits=limits or DEFAULT[precision],
        overall=difference(against.answers, answers, classes=against.classes),
        batches={size: _worst(by_size[size]) for size in sorted(by_size)},
        images=pictures.source,
        image_count=count,
        weak=pictures.weak,
        accuracy=accuracy(against.answers, answers, pictures.labels) if against.classes else None,
        sample=against.sample,
    )


def _worst(batches: Sequence[Difference]) -> Difference:
    """Batches of one size as one; of the agreement the mean, which is that of all their images."""
    agreements = [batch.top1_agreement for batch in batches if batch.top1_agreement is not None]
    return Difference(
        finite=all(batch.finite for batch in batches),
        max_absolute=max(batch.max_absolute for batch in batches),
        max_relative=max(batch.max_relative for batch in batches),
        min_cosine=min(batch.min_cosine for batch in batches),
        sqnr_db=min(batch.sqnr_db for batch in batches),
        top1_agreement=sum(agreements) / len(agreements) if agreements else None,
    )


def _batches(count: int) -> Iterator[NDArray[np.int64]]:
    """Consecutive images, in batches of these sizes alone; where the images run out, they come round again."""
    start = 0
    for size in BATCHES:
        yield np.arange(start, start + size) % count
        start += size
    while start < count:
        yield np.arange(start, start + BATCHES[-1]) % count
        start += BATCHES[-1]


def _figures(found: Difference) -> dict[str, Any]:
    return {key: _finite(figure) for key, figure in asdict(found).items()}


def _finite(figure: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return None if isinstance(figure, float) and not math.isfinite(figure) else figure
