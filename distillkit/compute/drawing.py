"""Drawing with matplotlib: without the settings of the current folder, and with text drawn as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.messages.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@contextmanager
def drawing() -> Iterator[None]:
    """Import and use matplotlib in this block, with the user's settings except LaTeX, which would run text as code.

    When it is imported, matplotlib reads a `matplotlibrc` in the current folder before any other. So the process
    changes to matplotlib's own folder for the moment of the import.
    """
    if "matplotlib" not in sys.modules:
        _import_matplotlib()
    from matplotlib import rc_context

    with rc_context({"text.usetex": False}):
        yield


def draw_legend(owner: Axes | Figure, **options: Any) -> None:
    """Add a legend whose labels are not parsed as formulas: they contain names of plugins, files and classes."""
    legend = owner.legend(**options)
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_text(visible(text.get_text()))


def _import_matplotlib() -> None:
    found = find_spec("matplotlib")
    try:
        with nullcontext() if found is None or found.origin is None else chdir(Path(found.origin).parent):
            import_module("matplotlib")
    except FileNotFoundError:  # the current folder was deleted, so there is no file in it
        import_module("matplotlib")
