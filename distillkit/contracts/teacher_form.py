"""Form of a frozen teacher: how it computes the same function faster. Written and read as text, without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal, LiteralString, TypeAlias, cast

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

SEPARATOR = "+"
FormChoice: TypeAlias = Literal["auto", "measured"]


@dataclass(frozen=True)
class TeacherForm:
    """How a frozen teacher computes; every form computes the same function up to rounding.

    `channels_last` is the memory layout of images, maps and kernels. `written_attention` computes attention by two
    products and a softmax instead of torch's fused function. `half_weights` stores all weights in a 16-bit
    `teacher.precision` and computes without autocast; no effect in float32. `compiled` compiles the network with its
    weights as constants (inductor's freezing), for batches of the usual size.
    """

    channels_last: bool = False
    written_attention: bool = False
    half_weights: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        """The parts joined by "+", or "plain" without any; `parse` reads it.

        >>> str(TeacherForm(channels_last=True, compiled=True)), str(TeacherForm())
        ('channels-last+compiled', 'plain')
        """
        return SEPARATOR.join(_text(field.name) for field in fields(self) if getattr(self, field.name)) or "plain"

    @classmethod
    def parse(cls, text: str) -> TeacherForm:
        """The inverse of `str`; the parts may be in any order.

        Raises: ValueError for an unknown part, or one that is given twice.
        """
        parts = [] if text == "plain" else text.split(SEPARATOR)
        names = {_text(field.name): field.name for field in fields(cls)}
        if len(set(parts)) < len(parts) or not set(parts) <= set(names):
            raise ValueError(text)
        return cls(**{names[part]: True for part in parts})


PLAIN = TeacherForm()


def chosen_form(text: str) -> TeacherForm | FormChoice:
    """The value of `teacher.form`: a form, or how it is chosen.

    Raises: ValueError as `TeacherForm.parse`.
    """
    return cast("FormChoice", text) if text in ("auto", "measured") else TeacherForm.parse(text)


def _check(text: str) -> str:
    """The same form in the usual order of its parts.

    Raises: PydanticCustomError for another text.
    """
    try:
        return str(chosen_form(text))
    except ValueError:
        raise PydanticCustomError("teacher_form", ALLOWED) from None


def _text(name: str) -> str:
    return name.replace("_", "-")


ALLOWED: LiteralString = (
    "auto, measured, plain, or parts joined by +: channels-last, written-attention, half-weights, compiled"
)
FormText: TypeAlias = Annotated[str, Field(max_length=128), AfterValidator(_check)]
"""`teacher.form` in a recipe."""
