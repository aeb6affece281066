"""Few-label subsets of the training images: balanced over classes, or from a list of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillkit.data.selection import SelectedPart, Selection
from distillkit.data.sources import Source, Stream
from distillkit.data.stratified import kept_labels
from distillkit.errors import DataError
from distillkit.storage.untrusted import read_plain_text


def balanced_subset(images: Source | Stream, share: float, seed: int) -> Selection:
    """A `share` of the labelled images, balanced over classes as far as they have images, at least one per class.

    The same images as those whose labels `data.labels` keeps with this `data.seed`; a larger share contains a smaller.
    Raises: DataError for a stream.
    """
    selection = _with_an_index(images)
    wanted = max(len(np.unique(selection.labels)), round(share * len(selection)))
    return _chosen(selection, kept_labels(selection.labels, wanted, seed))


def listed_subset(images: Source | Stream, path: Path) -> Selection:
    """The labelled images listed in a text file, one name per line, with their folders or without.

    Raises: DataError for a missing or empty file, an unknown or ambiguous name, or a stream.
    """
    selection = _with_an_index(images)
    try:
        text = read_plain_text(path)
    except FileNotFoundError:
        raise DataError(f"there is no image list '{path}'; check the path") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise DataError(f"'{path}' {error}; give a text file with one name per line") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"'{path}' lists no images; write one name per line")
    # Published lists, such as SimCLR's for ImageNet, may have file names without folders.
    by_key: dict[str, int] = {}
    by_file_name: dict[str, list[int]] = {}
    for index, key in enumerate(selection.all_keys()):
        by_key[key] = index
        by_file_name.setdefault(key.rpartition("/")[2], []).append(index)
    matches = {name: [by_key[name]] if name in by_key else by_file_name.get(name, []) for name in names}
    missing = [name for name, indices in matches.items() if not indices]
    if missing:
        raise DataError(
            f"{len(missing):,} of the images listed in '{path}' are not among the {len(selection):,} labelled "
            f"training images of '{selection.name}', such as '{missing[0]}'; give a list for this data"
        )
    ambiguous = next((name for name, indices in matches.items() if len(indices) > 1), None)
    if ambiguous is not None:
        example = selection.key(matches[ambiguous][0])
        raise DataError(f"'{ambiguous}' in '{path}' matches several images; add the folder, such as '{example}'")
    # Unique: an image may be listed twice, with its folder and without.
    return _chosen(selection, np.unique([indices[0] for indices in matches.values()]))


def _with_an_index(images: Source | Stream) -> Selection:
    if not isinstance(images, Selection):
        raise DataError(
            f"few-label subsets need images with an index, and '{images.name}' is a stream; name a folder or a data "
            "set with an index"
        )
    return images


def _chosen(selection: Selection, indices: NDArray[np.int64]) -> Selection:
    return Selection(
        selection.name, selection.class_names, [SelectedPart(selection, indices, selection.labels[indices])]
    )
