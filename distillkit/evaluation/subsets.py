"""Few training images: as many of every class, or those of a list."""

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
    """`share` of labelled images, equally many of every class as far as a class has them, and at least one of each.

    The images are those whose labels `data.labels` would keep at this `data.seed`; a smaller share is part of a larger.
    Raises: DataError for a stream.
    """
    selection = _with_an_index(images)
    wanted = max(len(np.unique(selection.labels)), round(share * len(selection)))
    return _chosen(selection, kept_labels(selection.labels, wanted, seed))


def listed_subset(images: Source | Stream, path: Path) -> Selection:
    """The labelled images that a text file names, one a line, with their folders or without.

    Raises: DataError for a file that is missing or empty, a name that is none or may be several, or a stream.
    """
    selection = _with_an_index(images)
    try:
        text = read_plain_text(path)
    except FileNotFoundError:
        raise DataError(f"there is no list of images '{path}'; check the path") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise DataError(f"'{path}' {error}; give a text file, one name a line") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"'{path}' names no image; write one name a line")
    whole: dict[str, int] = {}
    bare: dict[str, list[int]] = {}
    for index, key in enumerate(selection.all_keys()):
        whole[key] = index
        bare.setdefault(key.rpartition("/")[2], []).append(index)
    found = {name: [whole[name]] if name in whole else bare.get(name, []) for name in names}
    missing = [name for name, indices in found.items() if not indices]
    if missing:
        raise DataError(
            f"{len(missing):,} of the images that '{path}' names are not among the {len(selection):,} labelled "
            f"training images of '{selection.name}', such as '{missing[0]}'; give the list of these data"
        )
    unclear = next((name for name, indices in found.items() if len(indices) > 1), None)
    if unclear is not None:
        example = selection.key(found[unclear][0])
        raise DataError(f"'{unclear}' in '{path}' may be several images; write the folder too, such as '{example}'")
    return _chosen(selection, np.unique([indices[0] for indices in found.values()]))


def _with_an_index(images: Source | Stream) -> Selection:
    if not isinstance(images, Selection):
        raise DataError(
            f"few labels are chosen by the index of an image, and '{images.name}' is a stream; name a folder or a "
            "data set with an index"
        )
    return images


def _chosen(selection: Selection, indices: NDArray[np.int64]) -> Selection:
    return Selection(
        selection.name, selection.class_names, [SelectedPart(selection, indices, selection.labels[indices])]
    )
