"""Import torch's compiler only if something uses it: it takes more time than the rest of a plan.

torchvision imports `torch._dynamo`, and torch itself does at the first operation on the meta device that is written in
Python, only to exclude that operation from compilation. Without a compiled model both have no effect.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

NAMES = "torch._dynamo", "torch._dynamo.utils"


class Deferred(ModuleType):
    """Stands for a module of `torch._dynamo`; any attribute but those defined here imports the real modules."""

    def disable(self, function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        """The function itself: nothing is compiled here."""
        return function

    def is_compile_supported(self, device_type: str) -> Any:
        """As in `torch._dynamo.utils`, which torchvision asks when it runs one of its operators."""
        return _real("torch._dynamo.utils").is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


@contextmanager
def deferred_dynamo() -> Iterator[None]:
    """Within the context nothing may be compiled; afterwards torch finds its real modules."""
    names = [name for name in NAMES if name not in sys.modules]
    sys.modules.update({name: Deferred(name) for name in names})
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    for name in NAMES:
        if isinstance(sys.modules.get(name), Deferred):
            del sys.modules[name]


def _real(name: str) -> ModuleType:
    _forget()
    return import_module(name)
