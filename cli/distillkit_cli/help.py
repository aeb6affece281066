"""--help of the verbs: flags without a type, paragraphs wrapped to the terminal. Plugins print to stderr."""

from __future__ import annotations

import inspect
import re
import sys
from contextlib import redirect_stdout
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

NAMES = {"help_option_names": ["--help", "-h"]}


class Verb(TyperCommand):
    """A verb. Whatever a plugin prints goes to stderr, because stdout is for results."""

    def __init__(self, *arguments: Any, help: str | None = None, **settings: Any) -> None:  # noqa: A002 - click's name
        super().__init__(*arguments, help=_unwrapped(help), **settings)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type_of_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        with redirect_stdout(sys.stderr):
            return super().invoke(ctx)


class Verbs(TyperGroup):
    """A group of verbs."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type_of_flags(super().get_params(ctx))


def _unwrapped(text: str | None) -> str | None:
    """A docstring whose paragraphs are one line each, because typer keeps line breaks and the terminal may be narrow.

    Indented lines, such as examples, stay as they are.
    """
    return None if text is None else re.sub(r"(?<=[^\n])\n(?=[^\s])", " ", inspect.cleandoc(text))


def _without_type_of_flags(parameters: list[Any]) -> list[Any]:
    """Remove the type that typer shows for a flag, `--quiet <bool>`, as if it took a value; --help included."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
    return parameters
