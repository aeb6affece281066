"""Parity: compare an exported file's outputs with the model's, batch by batch, and check them against the limits."""

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
    from distillkit_export.images.gate_images import ImageSet

Z_99 = 2.33
"""One-sided 99 % quantile of the normal distribution: chance exceeds this many standard errors once in 100 times."""


@dataclass(frozen=True)
class Reference:
    """What files are compared with: input images, and the model's outputs for them, [n, K] or [n, D].

    `name` describes what computed the outputs. `classes` is whether they are class scores, not embeddings.
    `other_outputs` are the outputs for `images.other_sizes`. `sample` is true if the images are a sample of the gate's:
    a share is then allowed to exceed its limit by what chance explains. `note` is a warning about the model itself,
    independent of any file.
    """

    images: ImageSet
    outputs: NDArray[np.float32]
    name: str
    classes: bool = True
    other_outputs: tuple[NDArray[np.float32], ...] = ()
    sample: bool = False
    note: str = ""


@dataclass(frozen=True)
class Parity:
    """Parity metrics of one file, by batch size and overall, with the limits of its precision."""

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
        """The largest relative difference of all batches."""
        return max(batch.max_relative for batch in self.batches.values())

    @property
    def passed(self) -> bool:
        """Whether all outputs are finite and all metrics are within their limits."""
        return not self.failures()

    def failures(self) -> list[str]:
        """A message for each exceeded limit, with metric, value and limit, to follow the file name in a sentence."""
        broken = [size for size, batch in self.batches.items() if not batch.finite]
        if broken:  # NaN makes all other metrics meaningless
            return [f"outputs NaN or infinity for a batch of {broken[0]}"]
        return [*self._against_relative(), *self._against_noise(), *self._against_classes()]

    def _against_relative(self) -> Iterator[str]:
        limit = self.limits.max_relative
        if limit is not None and self.max_relative > limit:
            size = max(self.batches, key=lambda size: self.batches[size].max_relative)
            yield (
                f"differs from torch by {self.max_relative:.2g} of the largest score at batch {size} "
                f"(limit {limit:.2g})"
            )

    def _against_noise(self) -> Iterator[str]:
        if self.overall.sqnr_db < self.limits.min_sqnr_db:
            least = self.limits.min_sqnr_db
            yield f"has an SQNR of {self.overall.sqnr_db:.1f} dB (at least {least:g} dB required)"
        # Not for classes: the cosine of one image with near-zero scores is noise, and the top-1 agreement covers them.
        if self.overall.top1_agreement is None and self.overall.min_cosine < self.limits.min_cosine:
            yield (
                f"has a cosine similarity of {self.overall.min_cosine:.5f} to the embeddings of torch (at least "
                f"{self.limits.min_cosine:g} required)"
            )

    def _against_classes(self) -> Iterator[str]:
        agreement, wrong, count = self.overall.top1_agreement, 1 - self.limits.min_agreement, self.image_count
        chance = Z_99 * math.sqrt(wrong * (1 - wrong) / count) if self.sample else 0.0
        # 1 / count: one image may always differ. 1e-9: rounding must not fail a share that is exactly at its limit.
        if agreement is not None and 1 - agreement > max(wrong + chance, 1 / count) + 1e-9:
            yield (
                f"agrees with torch on the top-1 class of {agreement:.1%} of {counted(self.image_count, 'image')} "
                f"(at least {self.limits.min_agreement:.1%} required)"
            )
        measured = self.accuracy
        if measured is None:
            return
        chance = Z_99 * measured.drop_error if self.sample else 0.0
        if measured.drop > max(self.limits.max_accuracy_drop + chance, 100 / measured.images) + 1e-9:
            yield (
                f"has a top-1 accuracy of {measured.file:.1f} % on {counted(measured.images, 'labelled image')}, torch "
                f"{measured.model:.1f} %: a drop of {measured.drop:.1f} ± {measured.drop_error:.1f} points "
                f"(limit {self.limits.max_accuracy_drop:g})"
            )

    def as_dict(self) -> dict[str, Any]:
        """The parity metrics of this file, as in parity.json."""
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


def reference_outputs(model: Scorer, images: ImageSet, name: str, *, classes: bool = True) -> Reference:
    """Run the model on `images` to get the outputs that files are compared with.

    Raises: GateError if the model outputs NaN or infinity.
    """
    size, count = BATCHES[-1], len(images.pixels)
    batches = [model(images.pixels[np.arange(start, min(start + size, count))]) for start in range(0, count, size)]
    outputs = np.concatenate(batches)  # [n, K]
    others = tuple(model(batch) for batch in images.other_sizes)
    if not all(np.isfinite(scores).all() for scores in (outputs, *others)):
        raise GateError(
            "the model itself outputs NaN or infinity, so nothing can be compared; "
            "export another checkpoint or train it again"
        )
    return Reference(images, outputs, name, classes, others)


def measure(
    exported: Scorer, reference: Reference, precision: Precision = "fp32", limits: Limits | None = None
) -> Parity:
    """Run a file on the reference images and compare its outputs.

    The batch sizes are those of `BATCHES`, then the last of them until all images are used; batches of other image
    sizes follow. The worst batch of each size counts.
    Raises: GateError if the outputs have another shape.
    """
    images, count = reference.images, len(reference.images.pixels)
    by_size: dict[int, list[Difference]] = {}
    outputs = np.full_like(reference.outputs, np.nan)  # NaN: an image without an output must not pass
    for indices in _batches(count):
        scores = exported(images.pixels[indices])
        found = difference(reference.outputs[indices], scores, classes=reference.classes)
        by_size.setdefault(len(indices), []).append(found)
        outputs[indices] = scores
    for batch, expected in zip(images.other_sizes, reference.other_outputs, strict=True):
        found = difference(expected, exported(batch), classes=reference.classes)
        by_size.setdefault(len(batch), []).append(found)
    return Parity(
        precision=precision,
        limits=limits or DEFAULT[precision],
        overall=difference(reference.outputs, outputs, classes=reference.classes),
        batches={size: _worst(by_size[size]) for size in sorted(by_size)},
        images=images.source,
        image_count=count,
        weak=images.weak,
        accuracy=accuracy(reference.outputs, outputs, images.labels) if reference.classes else None,
        sample=reference.sample,
    )


def _worst(batches: Sequence[Difference]) -> Difference:
    """The worst metrics of batches of one size; the mean of their agreements, which is that over all their images."""
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
    """Indices of consecutive images, in batches of exactly the sizes `BATCHES`; at the end they start over at 0."""
    # A smaller last batch would be one more batch size in the report.
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
    """None for infinity and NaN, which JSON does not have."""
    return None if isinstance(figure, float) and not math.isfinite(figure) else figure
