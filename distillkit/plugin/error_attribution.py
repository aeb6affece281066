"""Whose code failed: what a plugin raises becomes one sentence that names it, its distribution and the method.

What a plugin makes is signed with its author, "loss 'margin' of distillkit-margin 1.2.0". The core calls it inside
`blamed`, which costs a microsecond; what is raised elsewhere (in a backward, in a property) is traced by `accused`.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import entry_points
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any, NoReturn

from distillkit.errors import BrokenPluginError, DistillkitError, RecipeError
from distillkit.messages.text import message_of, with_type
from distillkit.plugin.disabled import OURS

GROUP = "distillkit"
"""The entry points of plugins."""

_AUTHOR = "_distillkit_author"
_EXEMPT = (DistillkitError, KeyboardInterrupt, MemoryError)
"""Meant for the user, asked for by the user, or the machine's fault."""


def sign(thing: Any, author: str) -> Any:
    """Write on what a plugin made whose it is. What has no room for that (None, slots) stays as it is."""
    with suppress(AttributeError, TypeError):
        object.__setattr__(thing, _AUTHOR, author)
    return thing


def author_of(thing: object) -> str:
    """Who made a thing, itself or the model that it wraps; of an unsigned one, its class."""
    inner: object = thing
    while inner is not None:
        author = getattr(inner, "__dict__", {}).get(_AUTHOR)
        if author is not None:
            return str(author)
        inner = getattr(inner, "model", None)
    return f"'{type(thing).__module__}.{type(thing).__qualname__}'"


class blamed:  # noqa: N801 - a context manager, named as one reads it
    """`with blamed(loss, "target"): ...`: whatever is raised inside is the plugin's failure.

    `whose` is a thing that a plugin made, or the author's name. Errors of distillkit pass, and so do an interrupt, a
    lack of memory and a lost connection to another process.
    Raises: BrokenPluginError; RecipeError where torch.compile failed.
    """

    __slots__ = ("where", "whose")

    def __init__(self, whose: object, where: str) -> None:
        self.whose = whose
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        if error is None or is_exempt(error):
            return
        author = self.whose if isinstance(self.whose, str) else author_of(self.whose)
        if _of_compiler(error):
            raise RecipeError(f"{author} cannot be compiled: {with_type(error)}; set training.compile=false") from error
        raise BrokenPluginError(f"{author} failed in {self.where}: {with_type(error)}") from error


def kind_of(value: object) -> str:
    """What a sentence calls a value of the wrong type."""
    return "None" if value is None else type(value).__name__


def refuse(whose: object, where: str, found: str, wanted: str) -> NoReturn:
    """Say that a method of a plugin returned something else than it promised."""
    author = whose if isinstance(whose, str) else author_of(whose)
    raise BrokenPluginError(f"{author} returned {found} from {where}; {wanted} is what the contract asks for")


def accused(error: BaseException) -> BrokenPluginError | None:
    """The sentence for an unexpected exception, if it passed through the code of a plugin; else None."""
    if is_exempt(error):
        return None
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    calls = [(author, frame.f_code.co_name) for frame in frames if (author := _signed(frame))]
    calls = calls or [
        (author, frame.f_code.co_qualname)
        for frame in frames
        if (author := distributor(str(frame.f_globals.get("__name__", ""))))
    ]
    if not calls:
        return None
    author, last = calls[-1]
    # A method of a module is called through those of torch.nn.Module, and may call private ones of its own.
    method = next((name for other, name in calls if other == author and not name.startswith("_")), last)
    return BrokenPluginError(f"{author} failed in {method}: {with_type(error)}")


def _signed(frame: FrameType) -> str | None:
    """The author of the object whose method runs in a frame."""
    return getattr(frame.f_locals.get("self"), "__dict__", {}).get(_AUTHOR)


def distributor(module: str) -> str | None:
    """The distribution that a module belongs to, where it is one with plugins and not this one."""
    package = module.partition(".")[0]
    for entry_point in entry_points(group=GROUP):
        distribution = entry_point.dist
        if distribution and distribution.name != OURS and entry_point.module.partition(".")[0] == package:
            return f"the code of {distribution.name} {distribution.version}"
    return None


def is_exempt(error: BaseException) -> bool:
    """Whether an error is not the fault of the code that raised it."""
    if isinstance(error, _EXEMPT):
        return True
    # torch's own are recognised by name: this module loads no torch. gloo has no error of its own.
    of_torch = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
    lost = isinstance(error, RuntimeError) and "gloo" in message_of(error)
    return bool(of_torch & {"OutOfMemoryError", "DistError"}) or lost


def _of_compiler(error: BaseException) -> bool:
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
