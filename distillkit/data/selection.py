"""Selections: images of several sources, with some labels hidden, as one source."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from distillkit.data.sources import Source
from distillkit.plugin.error_attribution import blamed, kind_of, refuse

if TYPE_CHECKING:
    from PIL.Image import Image

UNLABELLED = -1


def labels_of(source: Source) -> NDArray[np.int64]:
    """Every label of a source, [n], UNLABELLED for an image without one."""
    with blamed(source, "label"):
        # operator.index accepts the integers of NumPy and torch, and rejects floats and strings.
        labels = (source.label(index) for index in range(len(source)))
        numbers = (UNLABELLED if label is None else operator.index(label) for label in labels)
        found = np.fromiter(numbers, np.int64, len(source))
    if len(found) and found.min() < UNLABELLED:
        refuse(source, "label", str(found.min()), "a class from 0 upwards, or None")
    return found


@dataclass(frozen=True)
class SelectedPart:
    """Some images of one source. `prefix` is put before their keys, so that keys of two sources never collide.

    Shapes: indices [n], labels [n].
    """

    source: Source
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    prefix: str = ""

    @classmethod
    def whole(cls, source: Source) -> SelectedPart:
        """All images of a source, with their labels."""
        return cls(source, np.arange(len(source)), labels_of(source))

    def without_labels(self, prefix: str) -> SelectedPart:
        """The same images as unlabelled ones."""
        return SelectedPart(self.source, self.indices, np.full_like(self.labels, UNLABELLED), prefix)

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> SelectedPart:
        """The images chosen by a mask [n] or by indices, in the order of the source."""
        kept = np.sort(np.arange(len(self.indices))[chosen])
        return SelectedPart(self.source, self.indices[kept], self.labels[kept], self.prefix)


class Selection:
    """Images of several sources as one Source.

    Shapes: labels [n].
    """

    def __init__(self, name: str, class_names: tuple[str, ...] | None, parts: Sequence[SelectedPart]) -> None:
        self.name = name
        self.class_names = class_names
        self.parts = tuple(parts)
        self.labels = np.concatenate([part.labels for part in parts])
        self._ends = list(accumulate(len(part.indices) for part in parts))

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        part, inner = self._find(index)
        with blamed(part.source, "key"):
            return part.prefix + part.source.key(inner)

    def all_keys(self) -> Iterator[str]:
        """Every key, in order; faster than calling `key` for each."""
        for part in self.parts:
            for index in part.indices.tolist():
                with blamed(part.source, "key"):
                    key = part.prefix + part.source.key(index)
                yield key  # outside `blamed`: an error of the caller is not the plugin's

    def label(self, index: int) -> int | None:
        label = int(self.labels[index])
        return None if label == UNLABELLED else label

    def image(self, index: int) -> Image:
        part, inner = self._find(index)
        image: object = part.source.image(inner)
        if not isinstance(image, PIL.Image.Image):
            refuse(part.source, "image", kind_of(image), "a PIL image in RGB")
        return image

    def file(self, index: int) -> Path | BinaryIO | None:
        """The file of an image, None if its source names none; see `Source`."""
        part, inner = self._find(index)
        named: Callable[[int], Path | BinaryIO | None] | None = getattr(part.source, "file", None)
        return None if named is None else named(inner)

    def labelled(self) -> NDArray[np.bool_]:
        """Which images have a label, [n]."""
        labelled: NDArray[np.bool_] = self.labels != UNLABELLED
        return labelled

    def only_labelled(self) -> Selection:
        """The same selection without its unlabelled images."""
        parts = [part.only(part.labels != UNLABELLED) for part in self.parts]
        return Selection(self.name, self.class_names, [part for part in parts if len(part.indices)])

    def _find(self, index: int) -> tuple[SelectedPart, int]:
        number = bisect_right(self._ends, index)
        part = self.parts[number]
        return part, int(part.indices[index - self._ends[number]])  # negative: counted from the part's end
