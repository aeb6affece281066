"""`timm:<data set>`: everything timm's dataset factory reads, indexed or streamed."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from timm.data import create_dataset
from timm.data.readers import img_extensions

from distillkit import DataError, MissingExtraError
from distillkit.data import IMAGE_EXTENSIONS, NO_EXTENSION, Decoding, as_rgb, expanded, is_ignored, open_rgb

if TYPE_CHECKING:
    from PIL import Image

    from distillkit.data.sources import Split
    from distillkit.recipe.image_tables import Data

# Per kind: the package that reads it, and its name for pip install.
_PACKAGES = {
    "torch": ("torchvision", '"distillkit[train]"'),
    "hfds": ("datasets", '"distillkit[timm-data]"'),
    "hfids": ("datasets", '"distillkit[timm-data]"'),
    "wds": ("webdataset", '"distillkit[timm-data]"'),
    "tfds": ("tensorflow_datasets", "tensorflow_datasets"),
}
_DOWNLOADABLE = ("torch", "tfds")
_NEED_ROOT = ("torch", "wds")
_UNCONVERTED = ("hfids", "wds")
_STREAMS = ("hfids", "wds", "tfds")
# torchvision has two splits of these; the one that timm calls validation is the test set of their papers.
_TORCH_TEST = ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "qmnist")
_TORCH_VALIDATION = ("imagenet", "inat", "inaturalist", "places365")

LONGEST_LISTING = 2**24
"""Characters of a `classes.txt`; the names of ImageNet-21k are far below it."""


class TimmData:
    """Opens `timm:<data set>`: torch/<name>, hfds/<name> and .tar files are indexed, the others are streams.

    `data.root` is the folder of the data. With `data.download`, torch/ and tfds/ are downloaded; hfds/ and hfids/
    always are. A .tar file is given by its path and has a single split. wds/ needs two files in `data.root`: an
    `_info.json`, as timm describes it, and a `classes.txt` with one class name per line.
    Raises: MissingExtraError for a package that is not installed; DataError for data that timm cannot open.
    """

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> TimmImages | TimmStream | None:
        name = argument or ""
        if Path(name).suffix == ".tar":
            return _open_tar(name, data, split)
        kind = name.partition("/")[0].lower()
        _check(name, kind, data)
        timm_split = _torch_split(name, split) if kind == "torch" else split
        if timm_split is None:
            return None
        try:
            opened = _create(name, data, timm_split)
        except Exception as error:  # torchvision, datasets, webdataset and tensorflow raise different ones
            # A missing split is not an error. The message of each of these packages then contains "split".
            if split != "train" and "split" in str(error).lower():
                return None
            can_download = kind in _DOWNLOADABLE and not data.download
            hint = "; to download it, set data.download = true" if can_download else ""
            raise DataError(f"'timm:{name}' cannot be opened: {_one_line(error)}{hint}") from error
        if kind in _STREAMS:
            return TimmStream(name, opened, data, timm_split)
        return TimmImages(f"timm:{name}", opened, Decoding.of(data))


class TimmImages:
    """Indexed data set of torchvision or one of timm's readers. `left_out` are the other files by extension."""

    def __init__(self, name: str, dataset: Any, decoding: Decoding, left_out: Mapping[str, int] | None = None) -> None:
        self.name = name
        self.left_out = left_out or {}
        self._decoding = decoding
        self._dataset = dataset
        self._reader = getattr(dataset, "reader", None)
        self.class_names = _class_names(self._reader or dataset)
        self._labels = _labels(self._reader or dataset)

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, index: int) -> str:
        """File name of the image, or its index if it has none."""
        name = self._reader.filename(index) if self._reader else None
        return name or f"{index:08d}"

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def file(self, index: int) -> BinaryIO | None:
        """The open file of an image, None for a data set that decodes its images itself."""
        file: BinaryIO | None = self._reader[index][0] if self._reader else None
        return file

    def image(self, index: int) -> Image.Image:
        if not self._reader:
            image: Image.Image = self._dataset[index][0]
            return as_rgb(image, self._decoding)
        # Not through timm's ImageDataset, which silently replaces an unreadable image by another one.
        with self._reader[index][0] as file:
            return open_rgb(file, self._decoding)


class TimmStream:
    """Stream of one of timm's iterable readers."""

    def __init__(self, name: str, dataset: Any, data: Data, split: str) -> None:
        self.name = f"timm:{name}"
        self.class_names = _class_names(dataset.reader) or _listed_names(self.name, data)
        self.shards = len(getattr(getattr(dataset.reader, "split_info", None), "filenames", None) or (1,))
        self._images = len(dataset)
        self._decoding = Decoding.of(data)
        self._arguments = (name, data, split)

    def __len__(self) -> int:
        return self._images

    def read(self, number: int) -> Iterator[tuple[Image.Image, int | None]]:
        # Opened here, in the loader process: timm's readers determine their process only once.
        dataset = _create(*self._arguments)
        dataset.set_epoch(number)
        for image, label in dataset:
            yield as_rgb(image, self._decoding), None if label is None or label < 0 else int(label)


def _create(name: str, data: Data, split: str) -> Any:
    # Absolute, because webdataset runs a name that starts with "pipe:" as a command.
    root = None if data.root is None else str(expanded(data.root).resolve())
    # These readers give images as they are, for `as_rgb`; tensorflow decodes to RGB itself.
    mode = "" if name.partition("/")[0].lower() in _UNCONVERTED else "RGB"
    return create_dataset(
        name,
        root=root,
        split=split,
        is_training=split == "train",
        download=data.download,
        seed=data.seed,
        input_img_mode=mode,
    )


def _open_tar(path: str, data: Data, split: Split) -> TimmImages | None:
    if split != "train" and data.train == f"timm:{path}":
        return None
    if not expanded(path).is_file():
        raise DataError(f"tar file '{path}' does not exist")
    try:
        # First, since it refuses a compressed file, whose content may be of any size.
        left_out = _left_out_of_tar(expanded(path))
        with _all_extensions():
            # cache_tarfiles=False: loader processes would share the cached open files and their read positions.
            # cache_tarinfo=False: timm would unpickle an index next to a large tar file, or write one.
            root = str(expanded(path))
            opened = create_dataset("", root=root, cache_tarfiles=False, cache_tarinfo=False)
        return TimmImages(f"timm:{path}", opened, Decoding.of(data), left_out)
    except Exception as error:
        raise DataError(f"tar file '{path}' cannot be opened: {_one_line(error)}") from error


def _left_out_of_tar(path: Path) -> dict[str, int]:
    """Number of the files that are not images in a tar file and in the tar files in it, by extension."""
    counts: Counter[str] = Counter()
    with tarfile.open(path, mode="r|") as tar:
        for member in tar:
            inner = tar.extractfile(member) if member.isfile() and member.name.lower().endswith(".tar") else None
            if inner is None:
                counts.update(_left_out_name(member))
            else:
                with tarfile.open(fileobj=inner, mode="r|") as inside:
                    counts.update(name for each in inside for name in _left_out_name(each))
    return dict(counts.most_common())


def _left_out_name(member: tarfile.TarInfo) -> Iterator[str]:
    """The extension of a visible file that is not read."""
    name = PurePosixPath(member.name)
    if member.isfile() and not any(is_ignored(part) for part in name.parts if part != "."):
        extension = name.suffix.lower()
        if extension not in IMAGE_EXTENSIONS:
            yield extension or NO_EXTENSION


@contextmanager
def _all_extensions() -> Iterator[None]:
    """Let timm read the extensions that a folder is read with, not only .png, .jpg and .jpeg."""
    timm: Any = img_extensions  # its functions have no types
    before = timm.get_img_extensions()
    timm.set_img_extensions((*before, *sorted(IMAGE_EXTENSIONS)))
    try:
        yield
    finally:
        timm.set_img_extensions(before)


def _check(name: str, kind: str, data: Data) -> None:
    if kind not in _PACKAGES:
        raise DataError(
            f"'timm:{name}' is not a data set of timm; use timm:torch/<name>, timm:hfds/<name>, timm:wds/<name>, "
            "timm:tfds/<name>, timm:hfids/<name> or timm:<path>.tar, or a folder without 'timm:'"
        )
    package, requirement = _PACKAGES[kind]
    if find_spec(package) is None:
        raise MissingExtraError(f"'timm:{name}' needs {package}, which is not installed; pip install {requirement}")
    if kind in _NEED_ROOT and data.root is None:
        raise DataError(f"'timm:{name}' needs data.root, the folder that contains it")
    if kind == "wds" and not expanded(data.root or "").is_dir():
        raise DataError(f"'timm:{name}' is read from data.root, and '{data.root}' is not a folder")


def _torch_split(name: str, split: Split) -> str | None:
    """Name that timm gives a split of a torchvision data set, or None if there is no such split."""
    dataset = name.partition("/")[2].lower()
    known = sorted((*_TORCH_TEST, *_TORCH_VALIDATION))
    if dataset not in known:
        raise DataError(
            f"'timm:{name}' is not a torchvision data set that timm supports; use one of: {', '.join(known)}"
        )
    if split == "train":
        return split
    return "validation" if split == ("test" if dataset in _TORCH_TEST else "validation") else None


def _class_names(listing: Any) -> tuple[str, ...] | None:
    """Class names of a timm reader or a torchvision data set, in the order of the labels."""
    indices: Mapping[str, int] | None = getattr(listing, "class_name_to_idx", None) or getattr(
        listing, "class_to_idx", None
    )
    if hasattr(listing, "classes"):  # ImageNet's are tuples of synonyms
        return tuple(name if isinstance(name, str) else ", ".join(name) for name in listing.classes)
    return tuple(sorted(indices, key=indices.__getitem__)) if indices else None


def _listed_names(name: str, data: Data) -> tuple[str, ...]:
    listing = Path(data.root or "", "classes.txt")
    if not listing.is_file():
        raise DataError(f"stream '{name}' has no class names; list them in '{listing}', one per line")
    try:
        with listing.open(encoding="utf-8") as file:
            text = file.read(LONGEST_LISTING + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"class names of stream '{name}' cannot be read from '{listing}': {error}") from error
    if len(text) > LONGEST_LISTING:
        raise DataError(f"'{listing}' has more than {LONGEST_LISTING:,} characters; list one class name per line in it")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _labels(listing: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels [N] of a timm reader or a torchvision data set, if possible without reading images."""
    if hasattr(listing, "targets"):
        labels = np.asarray(listing.targets)
        return labels[:, 0] if labels.ndim > 1 else labels  # [N]; the first column of QMNIST is the class
    if hasattr(listing, "iter_targets"):
        return np.array([-1 if label is None else label for label in listing.iter_targets()])
    return np.array([listing[index][1] for index in range(len(listing))])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
