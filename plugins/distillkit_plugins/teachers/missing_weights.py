"""Published weights of the named teachers: whether they still have to be downloaded. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub import constants, try_to_load_from_cache

from distillkit import MissingFile
from distillkit_plugins.teachers.known import KNOWN

if TYPE_CHECKING:
    from distillkit.recipe.schema import TeacherEntry

FILE = "model.safetensors"


def missing_weights(name: str, entry: TeacherEntry) -> MissingFile | None:
    """The weights that teacher `name` would download: not in the hub's cache, and no file is given."""
    known = KNOWN[name]
    if entry.weights not in (None, "pretrained") or known.file_source:
        return None
    # timm's repositories have the names of its models, which a test checks.
    repository = f"timm/{known.network}"
    if isinstance(try_to_load_from_cache(repository, FILE), str):
        return None
    return MissingFile(
        what=f"the weights of teacher '{name}'",
        url=f"{constants.ENDPOINT}/{repository}/resolve/main/{FILE}",
        remedy="give the file with --teacher-weights",
    )
