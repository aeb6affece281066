"""Attribution of errors to plugins: the message names the plugin, its distribution and the method that failed.

Objects from plugins are signed with their author, "loss 'margin' of distillkit-margin 1.2.0". The core calls them
inside `blamed`, which costs a microsecond. `plugin_failure` attributes errors raised elsewhere (in a backward pass, in
a property) by their traceback.
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
"""Entry point group of plugins."""

_AUTHOR = "_distillkit_author"
_EXEMPT = (DistillkitError, KeyboardInterrupt, MemoryError)
"""Errors that are not the plugin's fault: messages for the user, an interrupt by the user, and out of memory."""


def sign(thing: Any, author: str) -> Any:
    """Store the author in an object from a plugin. Objects without a `__dict__` (None, slots) stay unsigned."""
    with suppress(AttributeError, TypeError):
        # Not setattr: the object may be a frozen dataclass, such as a ModelSpec.
        object.__setattr__(thing, _AUTHOR, author)
    return thing


def author_of(thing: object) -> str:
    """The author of an object or of the model that it wraps; for an unsigned object, its class."""
    inner: object = thing
    while inner is not None:
        author = getattr(inner, "__dict__", {}).get(_AUTHOR)
        if author is not None:
            return str(author)
        inner = getattr(inner, "model", None)
    return f"'{type(thing).__module__}.{type(thing).__qualname__}'"


class blamed:  # noqa: N801 - a context manager that is used like a function
    """Attribute errors inside the block to a plugin: `with blamed(loss, "target"): ...`.

    `whose` is an object from a plugin, or the author's name; `where` is the method. Errors of distillkit, interrupts,
    out of memory and a lost connection to another process pass through unchanged.
    Raises: BrokenPluginError; RecipeError if torch.compile failed.
    """

    # A class with slots rather than a generator: it runs around every call of a loss, and costs less.

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
    """The type of a wrong value, for a message."""
    return "None" if value is None else type(value).__name__


def refuse(whose: object, where: str, found: str, wanted: str) -> NoReturn:
    """Raise BrokenPluginError because a method of a plugin returned `found` instead of `wanted`."""
    author = whose if isinstance(whose, str) else author_of(whose)
    raise BrokenPluginError(f"{author} returned {found} from {where}; the contract requires {wanted}")


def plugin_failure(error: BaseException) -> BrokenPluginError | None:
    """The BrokenPluginError for an unexpected exception whose traceback includes plugin code; else None."""
    if is_exempt(error):
        return None
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    calls = [(author, frame.f_code.co_name) for frame in frames if (author := _signed(frame))]
    # Without a signed object, as in an autograd.Function, the module of the frame tells the distribution.
    calls = calls or [
        (author, frame.f_code.co_qualname)
        for frame in frames
        if (author := distributor(str(frame.f_globals.get("__name__", ""))))
    ]
    if not calls:
        return None
    author, last = calls[-1]
    # The frames of a module include nn.Module's `_call_impl` and private methods; the public method says more.
    method = next((name for other, name in calls if other == author and not name.startswith("_")), last)
    return BrokenPluginError(f"{author} failed in {method}: {with_type(error)}")


def _signed(frame: FrameType) -> str | None:
    """The author of the object whose method runs in this frame."""
    return getattr(frame.f_locals.get("self"), "__dict__", {}).get(_AUTHOR)


def distributor(module: str) -> str | None:
    """The third-party distribution with plugins that a module belongs to, if any."""
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
    # torch's errors are recognised by name, as this module must not import torch. gloo has no error class of its own.
    of_torch = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
    lost = isinstance(error, RuntimeError) and "gloo" in message_of(error)
    return bool(of_torch & {"OutOfMemoryError", "DistError"}) or lost


def _of_compiler(error: BaseException) -> bool:
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
