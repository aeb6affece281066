"""Whose backward failed, where torch itself says so and no function of a plugin is among the calls.

torch looks at the gradients that an `autograd.Function` returns when that function has ended: it names its class alone,
and of some faults nothing at all.
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
    accused,
    author_of,
    distributor,
    is_exempt,
)

_COMPLAINT = re.compile(
    r"[Ff]unction (?P<name>\w+)Backward returned an in|expected Variable or None|modified by an inplace operation"
)
"""What torch says of a backward that does not keep to its forward."""


@contextmanager
def blamed_on_the_way_back(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A backward through `modules`, the student and the losses: what torch complains of is a plugin's failure.

    Raises: BrokenPluginError that names the distribution with the class that torch names or, where it names none,
    every module that is not ours.
    """
    try:
        yield
    except RuntimeError as error:
        complaint = _COMPLAINT.search(message_of(error))
        if complaint is None or is_exempt(error) or accused(error) is not None:
            raise
        name = complaint["name"]
        owners = {owner for kind in _functions(torch.autograd.Function) if (owner := _owner(kind, name))}
        if owners:
            raise BrokenPluginError(f"{_either(owners)} failed in {name}.backward: {with_type(error)}") from error
        authors = {author for module in modules if f" of {OURS} " not in (author := author_of(module))}
        if not authors:
            raise
        raise BrokenPluginError(f"{_either(authors)} failed in a backward: {with_type(error)}") from error


def _functions(kind: type[object]) -> Iterator[type[object]]:
    """The classes that a program has made of a class, those inside functions too."""
    below: list[type[object]] = kind.__subclasses__()
    for each in below:
        yield each
        yield from _functions(each)


def _owner(kind: type, name: str | None) -> str | None:
    return distributor(kind.__module__) if kind.__name__ == name else None


def _either(authors: Iterable[str]) -> str:
    return " or ".join(sorted(authors))
