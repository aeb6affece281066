"""Files of `imagenette`: where the archive comes from, where it is kept, and whether it is there. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit import MissingFile
from distillkit.data import expanded, user_data

if TYPE_CHECKING:
    from distillkit.recipe.image_tables import Data

URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"
MD5 = "e793b78cc4c9e9a4ccc0c1155377a412"
# URL and MD5 are torchvision's, which a test checks; torchvision itself imports torch.
ARCHIVE, FOLDER = "imagenette2-160.tgz", "imagenette2-160"


def root_of(data: Data) -> Path:
    """The folder for the archive and its content: `data.root`, else a folder of this user."""
    return user_data() / "imagenette" if data.root is None else expanded(data.root)


def missing_archive(_: str, data: Data) -> MissingFile | None:
    """The archive, if neither it nor its content is there."""
    root = root_of(data)
    if (root / FOLDER).is_dir() or is_complete(root / ARCHIVE):
        return None
    remedy = f"put the archive into {root}, or give --data DIR"
    if (root / ARCHIVE).is_file():
        remedy = f"{root / ARCHIVE} does not match the MD5 {MD5}; replace it, or give --data DIR"
    return MissingFile("the data set 'imagenette'", URL, remedy)


def is_complete(archive: Path) -> bool:
    """Whether the archive is there, with the right MD5."""
    if not archive.is_file():
        return False
    with archive.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == MD5
