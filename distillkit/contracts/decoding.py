"""Decoding of image files to 8-bit colours: how transparency and 16-bit grey are converted."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Protocol, TypeAlias

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

Grey16: TypeAlias = Literal["refuse", "scale"]
NO_BACKGROUND = "none"


def check_background(text: str) -> str:
    """The name of a colour, or "none".

    Raises: PydanticCustomError for another text.
    """
    from PIL import ImageColor

    try:
        is_color = len(ImageColor.getrgb(text)) == 3  # 4: with an alpha value
    except ValueError:
        is_color = False
    if text != NO_BACKGROUND and not is_color:
        raise PydanticCustomError("background", "a colour such as white or #ff8800, or none")
    return text


Background: TypeAlias = Annotated[str, Field(max_length=32), AfterValidator(check_background)]
"""A colour such as "white" or "#ff8800", or "none"."""


class _HasDecoding(Protocol):
    @property
    def background(self) -> str: ...
    @property
    def grey16(self) -> Grey16: ...


class Decoding(NamedTuple):
    """How image files become 8-bit colours.

    `background` is the colour behind transparent pixels, "none" to drop the alpha channel. `grey16` says whether 16-bit
    grey is refused, or scaled from 0..65535 to 0..255.
    """

    background: str = NO_BACKGROUND
    grey16: Grey16 = "refuse"

    @classmethod
    def of(cls, settings: _HasDecoding) -> Decoding:
        """The decoding of the recipe's `[data]`, a model or a bundle."""
        return cls(settings.background, settings.grey16)


AS_STORED = Decoding()
"""The decoding of earlier versions: an alpha channel is dropped, and 16-bit grey is refused."""
