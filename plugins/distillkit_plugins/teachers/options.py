"""Options of the built-in teachers. Imports neither torch nor timm, so that a wrong option is reported at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, PositiveInt

from distillkit_plugins.image_size_option import ImageSizeOption


class TimmTeacherOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of the network; the defaults are timm's."""

    image_size: ImageSizeOption | None = Field(None, description="pixels: a number, or [height, width]")


class CifarResNetOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """No options."""


class SavedRunOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """The run defines its student; only which of its students is an option."""

    checkpoint: Literal["last", "best", "ema"] | PositiveInt | None = Field(
        None, description="student of the run: last, best, ema, or the step of a checkpoint; default: last"
    )
