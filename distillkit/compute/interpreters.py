"""New Python interpreters import from where this process does, but never from the current folder.

Python puts the current folder first on the path of `python -m` and `python -c`: a `numpy.py` in it would run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def module_command(module: str, *arguments: str) -> list[str]:
    """The command `python -m <module>` for this interpreter, without the current folder on its path."""
    return [sys.executable, "-P", *(["-S"] if sys.flags.no_site else []), "-m", module, *arguments]


def code_command(code: str, *arguments: str) -> list[str]:
    """The command `python -c <code>` for this interpreter, without the current folder on its path."""
    return [sys.executable, "-P", "-c", code, *arguments]


def environment() -> dict[str, str]:
    """The environment of this process, with its import path as PYTHONPATH: the folder of a script, for example.

    An empty entry means the current folder and is left out.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Set environment variables for the processes that start during the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the current folder off the path of interpreters that `multiprocessing` starts during the block.

    It starts them with `python -c`, unless the start method is "fork", and then hands over the path of this process.
    """
    with variables(PYTHONSAFEPATH="1"):
        yield
