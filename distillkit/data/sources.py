"""Image sources: what a data set plugin returns, with an index (`Source`) or as a stream (`Stream`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, TypeAlias

from distillkit.data.image_faults import (
    as_rgb,
    check_aspect_ratio,
    fault_of,
    require_regular_file,
    without_warnings,
)
from distillkit.errors import DataError, UnreadableImageError, UserError
from distillkit.messages.text import one_line, visible

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import TypeIs

    from distillkit.recipe.image_tables import Data

Split: TypeAlias = Literal["train", "validation", "test"]


class Source(Protocol):
    """Indexed images. Opening one lists the images and reads no pixels.

    `name` is shown in messages. `class_names` is in the order of the labels, None if the classes have no names.
    A source may also have `file_size(index) -> int`, the bytes of an image: a target bank is then not read for an image
    that was replaced by another one of the same name. And it may have `file(index) -> Path | BinaryIO | None`, the file
    of an image that `open_rgb` reads, for `data.decode = "fast"`; None if it has no file of its own.
    """

    name: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Identifies the image in every run. All random decisions about the image are seeded with its key."""

    def label(self, index: int) -> int | None:
        """The class, or None for an image without a label."""

    def image(self, index: int) -> Image:
        """The image in RGB. May raise anything; see `load_image`."""


class Stream(Protocol):
    """Images that are read in sequence. Resuming is exact to the epoch, not to the step.

    `len` is the number of images of one pass. `shards` is the largest number of processes that can share a pass.
    """

    name: str
    class_names: tuple[str, ...] | None
    shards: int

    def __len__(self) -> int: ...

    def read(self, number: int) -> Iterator[tuple[Image, int | None]]:
        """One pass over the shards of this process and loader worker; `number` counts the passes."""


def is_stream(source: object) -> TypeIs[Stream]:
    """Whether a source is a Stream: it has all members of one."""
    # Not isinstance with a runtime-checkable protocol: from Python 3.12 on it ignores __getattr__, which wrappers use.
    return all(hasattr(source, member) for member in ("name", "class_names", "shards", "__len__", "read"))


class SourceFactory(Protocol):
    """The class that `PluginSpec.factory` of a data set plugin names."""

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Source | Stream | None:
        """Open one split; None if the data set does not have it.

        `argument` is the part of the name after the colon. Raises: DataError if it cannot be opened.
        """


def load_image(source: Source, index: int, read: Callable[[int], Image] | None = None) -> Image:
    """Decode an image of a source; `read` decodes it in place of `source.image`.

    Raises: UnreadableImageError for any error of the source; DataError for a system error.
    """
    try:
        with without_warnings():
            image = (read or source.image)(index)
            image.load()  # a lazily opened image would otherwise fail later, as an error of the transform
            return check_aspect_ratio(image if image.mode == "RGB" else as_rgb(image))
    except UnreadableImageError:
        raise
    # Decoders raise errors of any type: OSError, SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        # An error about the plugin's settings or missing packages is not a fault of this image.
        if isinstance(error, UserError) and not isinstance(error, DataError):
            raise
        key = visible(source.key(index))
        fault = fault_of(error)
        if fault is None:
            raise DataError(
                f"image '{key}' of '{source.name}' cannot be read because of a system error: {one_line(error)}; "
                "lower data.workers, or raise the limits of the process (ulimit)"
            ) from error
        raise UnreadableImageError(
            f"image '{key}' of '{source.name}' cannot be read: {fault.reason}; repair or remove it",
            key=key,
            kind=fault.kind,
            reason=fault.reason,
        ) from error


@contextmanager
def image_file(source: Source, index: int) -> Iterator[Path | BinaryIO | None]:
    """The file of an image, closed afterwards; None if the source names none.

    Raises: ImageFault for a path that is not a regular file, or any error of the source.
    """
    named: Callable[[int], Path | BinaryIO | None] | None = getattr(source, "file", None)
    file = None if named is None else named(index)
    if file is None:
        yield None
    elif isinstance(file, Path):
        require_regular_file(file)
        yield file
    else:
        with file:
            yield file


def read_stream(stream: Stream, number: int) -> Iterator[tuple[Image, int | None]]:
    """One pass over a stream, which handles its unreadable images itself.

    Raises: DataError, which names the stream, for any error of the stream.
    """
    try:
        with without_warnings():
            samples = iter(stream.read(number))
        while True:
            # Only around `next`: a filter must not stay in force while the caller works on the sample.
            with without_warnings():
                sample = next(samples, None)
            if sample is None:
                return
            yield sample
    except UserError:
        raise
    except Exception as error:
        raise DataError(
            f"the stream '{stream.name}' failed: {one_line(error)}; repair the shard that it was reading"
        ) from error
