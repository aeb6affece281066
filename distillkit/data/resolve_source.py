"""Open the data sets that a recipe names: `digits`, `timm:torch/cifar10`, a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from distillkit.data.selection import UNLABELLED, labels_of
from distillkit.data.sources import Source, Split, Stream, is_stream
from distillkit.errors import DataError
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import shortened
from distillkit.plugin.error_attribution import blamed, kind_of, refuse
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry, split_name
from distillkit.recipe.image_tables import Data
from distillkit.storage.user_dirs import expanded

Key: TypeAlias = Literal["train", "validation", "test", "unlabeled"]
"""The keys of `recipe.Data` that name a data set."""
OPTIONS: dict[Key, str] = {"train": "--data (data.train)", "unlabeled": "--unlabeled (data.unlabeled)"}
"""The command-line options of keys, for errors in a name that is usually typed there."""


@dataclass(frozen=True)
class SourceOpener:
    """Opens the data sets named in `[data]`; looks each plugin up once. Every DataError starts with the key."""

    data: Data
    plugins: PluginRegistry
    _found: dict[str, Plugin] = field(default_factory=dict, init=False, repr=False)

    def training(self, key: Literal["train", "unlabeled"], name: str) -> Source | Stream:
        """The images to train on."""
        opened = self._open(key, name, "train")
        if opened is None:
            raise DataError(f"data.{key}: '{name}' has no training images; name another data set or a folder")
        return opened

    def evaluation(self, key: Literal["validation", "test"], name: str) -> Source | Stream:
        """The validation or test images that a recipe names.

        Raises: DataError if there is no such split, or some have no label.
        """
        opened = self._open(key, name, key)
        if opened is None:
            raise DataError(f"data.{key}: '{name}' has no {key} images; name another data set or a folder")
        missing = unlabelled_images(opened)
        if missing:
            raise DataError(
                f"data.{key}: {missing:,} of the {len(opened):,} images of '{opened.name}' have no label; "
                "move every image into the folder of its class"
            )
        return opened

    def bundled(self, key: Literal["validation", "test"], train: str) -> Source | Stream | None:
        """The validation or test images that come with the training data, if any."""
        return self._open("train", train, key)

    def _open(self, key: Key, name: str, split: Split) -> Source | Stream | None:
        try:
            plugin = self._find(name)
        except DataError as error:
            raise DataError(f"{OPTIONS.get(key, f'data.{key}')}: {error}") from error
        try:
            opened: Source | Stream | None = plugin.call("open", plugin.argument, self.data, split)
        except DataError as error:
            raise DataError(f"data.{key}: {error}") from error
        if opened is not None:
            _check(opened, str(plugin))
        if opened is not None and len(opened) == 0:
            raise DataError(f"data.{key}: '{opened.name}' has no images")
        # Only a folder data set knows this. Unlabelled images may be in any folders.
        problem = None if key == "unlabeled" else getattr(opened, "wrong_root", None)
        if problem is not None:
            raise DataError(f"data.{key}: {problem}")
        return opened

    def _find(self, name: str) -> Plugin:
        if name not in self._found:
            self._found[name] = find_data_set(name, self.plugins)
        return self._found[name]


def find_data_set(name: str, plugins: PluginRegistry) -> Plugin:
    """The plugin for a folder or a data set by name.

    Raises: DataError if there is neither; a PluginError.
    """
    return plugins.find("dataset", _resolve(name, plugins))


def _resolve(name: str, plugins: PluginRegistry) -> str:
    """Prefix a folder with "folder:". A data set wins over a folder of the same name, which is "./name"."""
    known = {plugin.spec.name: plugin.spec for plugin in plugins.listing("dataset")}
    if split_name(name)[0] in known:
        return name
    if _exists(name):
        return f"folder:{name}"
    guess = nearest(name, known)
    names = ", ".join(spec.shown_name for spec in known.values())
    remedy = f"did you mean '{guess}'? (data sets: {names})" if guess else f"data sets: {names}"
    raise DataError(f"'{shortened(name)}' is neither a folder nor a data set; {remedy}")


def without_recipe_key(error: DataError) -> str:
    """The message without its prefix for `data.train`, for commands that have another option."""
    return str(error).removeprefix("data.train: ").removeprefix(f"{OPTIONS['train']}: ")


def _exists(name: str) -> bool:
    try:
        return expanded(name).exists()
    except (OSError, RuntimeError):  # a name that is too long; ~user of an unknown user
        return False


def _check(opened: Source | Stream, author: str) -> None:
    """Check what a plugin opened against the Source and Stream contracts.

    Raises: BrokenPluginError.
    """
    lacking = [name for name in ("name", "class_names", "__len__") if not hasattr(opened, name)]
    if not is_stream(opened):
        lacking += [name for name in ("key", "label", "image") if not callable(getattr(opened, name, None))]
    if lacking:
        refuse(author, "open", f"{kind_of(opened)} without '{lacking[0]}'", "a Source, a Stream or None")
    names: object = opened.class_names
    if names is not None and not (isinstance(names, tuple) and all(isinstance(name, str) for name in names)):
        refuse(author, "open", f"class_names {names!r}", "a tuple of names, or None")
    with blamed(author, "__len__"):
        len(opened)


def unlabelled_images(source: Source | Stream) -> int:
    """Number of unlabelled images; 0 for a stream, whose labels are not known before it is read."""
    return 0 if is_stream(source) else int(np.sum(labels_of(source) == UNLABELLED))
