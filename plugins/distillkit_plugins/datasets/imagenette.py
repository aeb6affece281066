"""`imagenette`: ten of ImageNet's classes in small images, downloaded once."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import FileLock
from torchvision.datasets import Imagenette as TorchvisionImagenette
from torchvision.datasets.utils import download_and_extract_archive

from distillkit import DataError
from distillkit.data import open_rgb
from distillkit_plugins.datasets.imagenette_files import ARCHIVE, FOLDER, MD5, URL, is_complete, root_of

if TYPE_CHECKING:
    from PIL import Image

    from distillkit.data.sources import Split
    from distillkit.recipe.image_tables import Data


class Imagenette:
    """9,469 training and 3,925 test images of ten easy classes of ImageNet, at least 160 pixels on each side.

    The classes are named by their WordNet IDs, as ImageNet's folders are. The test images are those that the authors
    call validation images; for choosing the best checkpoint, a run holds out a share of the training images. The
    archive (99 MB) is downloaded unless it is in `data.root`, by default the folder `imagenette` in the user's data
    directory; its MD5 is checked.
    Source: J. Howard 2019, github.com/fastai/imagenette; read by torchvision's own class.
    Raises: DataError if the archive cannot be downloaded or unpacked.
    """

    name = "imagenette"

    def __init__(self, images: TorchvisionImagenette, root: Path) -> None:
        self.class_names: tuple[str, ...] = tuple(images.wnids)
        self._paths = [Path(path) for path, _ in images._samples]  # noqa: SLF001 - it has no public list of files
        self._labels: list[int] = [label for _, label in images._samples]  # noqa: SLF001
        self._root = root

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Imagenette | None:
        if split == "validation":
            return None
        root = root_of(data)
        folder = "train" if split == "train" else "val"
        try:
            if not (root / FOLDER).is_dir():
                _download(root)
            images = TorchvisionImagenette(root, split=folder, size="160px")
        except (OSError, RuntimeError, KeyError) as error:
            # An OSError without a network or space, a RuntimeError for a wrong MD5, a KeyError for an unknown class.
            reason = " ".join(str(error).split())
            raise DataError(
                f"'imagenette' cannot be downloaded from {URL} to {root} or read there ({reason}); put the archive "
                f"there yourself, set data.root to a folder that has it, or give --data DIR"
            ) from error
        return cls(images, root / FOLDER / folder)

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, index: int) -> str:
        return self._paths[index].relative_to(self._root).as_posix()

    def label(self, index: int) -> int:
        return self._labels[index]

    def file(self, index: int) -> Path:
        """The file of an image."""
        return self._paths[index]

    def image(self, index: int) -> Image.Image:
        return open_rgb(self._paths[index])


def _download(root: Path) -> None:
    """Download the archive unless it is there, check its MD5, and unpack it into `FOLDER`."""
    root.mkdir(parents=True, exist_ok=True)
    # Every process of a run opens the data; the others wait for the first one.
    with FileLock(root / ".lock"):
        if (root / FOLDER).is_dir():
            return
        _check_place(root / ARCHIVE)
        # Renamed at the end, so that an interrupted run leaves no folder with a part of the images.
        with TemporaryDirectory(prefix=f".{FOLDER}.", dir=root) as unpacked:
            download_and_extract_archive(URL, str(root), extract_root=unpacked, filename=ARCHIVE, md5=MD5)
            Path(unpacked, FOLDER).rename(root / FOLDER)


def _check_place(archive: Path) -> None:
    """Check what torchvision would write the download to: it follows a link, and waits for a pipe.

    Raises: OSError.
    """
    if archive.is_symlink() and not is_complete(archive):
        raise OSError(f"{archive} is a link, and not to the archive")
    if archive.exists() and not archive.is_file():
        raise OSError(f"{archive} is not a file")
