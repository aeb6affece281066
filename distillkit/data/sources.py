"""Where images come from: what a data set plugin gives, with an index (`Source`) or as a stream (`Stream`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from distillkit.data.image_faults import as_rgb, check_shape, fault_of, without_warnings
from distillkit.errors import DataError, UnreadableImageError, UserError
from distillkit.messages.text import one_line, visible

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import TypeIs

    from distillkit.recipe.schema import Data

Split: TypeAlias = Literal["train", "validation", "test"]


class Source(Protocol):
    """Images with an index. Opening one lists; it reads no pixels.

    `name` is how sentences call it. `class_names` is in the order of the labels, None where no name is known.
    """

    name: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """What identifies the image, now and in every later run. All randomness about the image comes from its key."""

    def label(self, index: int) -> int | None:
        """The class, or None for an image without a label."""

    def image(self, index: int) -> Image:
        """The image in RGB. May raise anything; see `load_image`."""


class Stream(Protocol):
    """Images that come one after the other. Resuming is exact to the epoch, not to the step.

    `len` is the number of images of one pass. `shards` is how many processes can share a pass.
    """

    name: str
    class_names: tuple[str, ...] | None
    shards: int

    def __len__(self) -> int: ...

    def read(self, number: int) -> Iterator[tuple[Image, int | None]]:
        """One pass over the part of the stream that belongs to this process and loader worker; `number` counts them."""


def is_stream(source: object) -> TypeIs[Stream]:
    """Whether a source is a Stream: it has all members of one."""
    # Not isinstance with a runtime-checkable protocol: from Python 3.12 on it misses what __getattr__ answers.
    return all(hasattr(source, member) for member in ("name", "class_names", "shards", "__len__", "read"))


class SourceFactory(Protocol):
    """What `PluginSpec.factory` of a data set names."""

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Source | Stream | None:
        """Open one split; None where the data set has none of that name.

        `argument` is what follows the colon of the name. Raises: DataError for what cannot be opened.
        """


def load_image(source: Source, index: int) -> Image:
    """The image of a source, decoded.

    Raises: UnreadableImageError, whatever the source raised; DataError where the machine is at fault.
    """
    try:
        with without_warnings():
            image = source.image(index)
            image.load()
            return check_shape(image if image.mode == "RGB" else as_rgb(image))
    except UnreadableImageError:
        raise
    # Decoders raise whatever they like: OSError, SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        # What a plugin says of its settings or its packages is no fault of this image.
        if isinstance(error, UserError) and not isinstance(error, DataError):
            raise
        key = visible(source.key(index))
        fault = fault_of(error)
        if fault is None:
            raise DataError(
                f"image '{key}' of '{source.name}' cannot be read, and that is not its own fault: {one_line(error)}; "
                "lower data.workers, or allow the process more (ulimit)"
            ) from error
        raise UnreadableImageError(
            f"image '{key}' of '{source.name}' cannot be read: {fault.reason}; repair or remove it",
            key=key,
            kind=fault.kind,
            reason=fault.reason,
        ) from error


def read_stream(stream: Stream, number: int) -> Iterator[tuple[Image, int | None]]:
    """One pass over a stream. What it does about an image that it cannot read is its own affair.

    Raises: DataError that names the stream, whatever the stream raised.
    """
    try:
        with without_warnings():
            passing = iter(stream.read(number))
        while True:
            with without_warnings():
                sample = next(passing, None)
            if sample is None:
                return
            yield sample
    except UserError:
        raise
    except Exception as error:
        raise DataError(
            f"the stream '{stream.name}' cannot be read on: {one_line(error)}; repair the part that it was reading"
        ) from error
