"""The command-line option for a teacher's weight file, which differs between commands, for messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OPTION: ContextVar[str] = ContextVar("weight option", default="--teacher-weights")


def weight_option() -> str:
    """The option of the command at hand: `--weights` in evaluate, attention, export and profile."""
    return _OPTION.get()


@contextmanager
def weights_are_given_by(option: str) -> Iterator[None]:
    """Name another option in the messages within the context."""
    token = _OPTION.set(option)
    try:
        yield
    finally:
        _OPTION.reset(token)
