"""Attribution of errors in a backward pass to plugins, when no plugin function is in the traceback.

torch checks the gradients of an `autograd.Function` after the function has returned. The error then names only its
class or, for some faults, nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distillkit.errors import BrokenPluginError
from distillkit.messages.text import message_of, with_type
from distillkit.plugin.disabled import OURS
from distillkit.plugin.error_attribution import (
    author_of,
    distributor,
    is_exempt,
    plugin_failure,
)

_BACKWARD_ERROR = re.compile(
    r"[Ff]unction (?P<name>\w+)Backward returned an in|expected Variable or None|modified by an inplace operation"
)
"""torch's errors about gradients that do not match the forward pass."""


@contextmanager
def blame_backward(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Attribute torch's errors in a backward pass through `modules`, the student and the losses, to plugins.

    Raises: BrokenPluginError that names the distribution of the class in torch's error, or all third-party modules if
        the error names no class.
    """
    try:
        yield
    except RuntimeError as error:
        match = _BACKWARD_ERROR.search(message_of(error))
        # An error with a plugin's function in its traceback is attributed more precisely by `plugin_failure`.
        if match is None or is_exempt(error) or plugin_failure(error) is not None:
            raise
        name = match["name"]
        owners = {owner for kind in _subclasses(torch.autograd.Function) if (owner := _owner(kind, name))}
        if owners:
            raise BrokenPluginError(f"{_either(owners)} failed in {name}.backward: {with_type(error)}") from error
        authors = {author for module in modules if f" of {OURS} " not in (author := author_of(module))}
        if not authors:
            raise
        raise BrokenPluginError(f"{_either(authors)} failed in the backward pass: {with_type(error)}") from error


def _subclasses(kind: type[object]) -> Iterator[type[object]]:
    """All direct and indirect subclasses, also those defined inside functions."""
    direct: list[type[object]] = kind.__subclasses__()
    for each in direct:
        yield each
        yield from _subclasses(each)


def _owner(kind: type, name: str | None) -> str | None:
    return distributor(kind.__module__) if kind.__name__ == name else None


def _either(authors: Iterable[str]) -> str:
    return " or ".join(sorted(authors))
