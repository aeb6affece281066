"""--help of the commands: no Python types, paragraphs wrapped to the terminal. Plugins print to stderr."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

NAMES = {"help_option_names": ["--help", "-h"]}


class Verb(TyperCommand):
    """A verb. Whatever a plugin prints goes to stderr, because stdout is for results."""

    def __init__(self, *arguments: Any, help: str | None = None, **settings: Any) -> None:  # noqa: A002 - click's name
        super().__init__(*arguments, help=_unwrapped(help), **settings)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_python_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with _reader_may_stop():
            super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        with redirect_stdout(sys.stderr):
            return super().invoke(ctx)


class Verbs(TyperGroup):
    """A group of verbs."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_python_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with _reader_may_stop():
            super().format_help(ctx, formatter)


@contextmanager
def _reader_may_stop() -> Iterator[None]:
    """End with 0 where the reader of the help has stopped early, as in `distillkit --help | head`."""
    try:
        yield
    except SystemExit:  # this is how typer's own console ends the program
        raise typer.Exit(0) from None


def _unwrapped(text: str | None) -> str | None:
    """A docstring whose paragraphs are one line each, because typer keeps line breaks and the terminal may be narrow.

    Indented lines, such as examples, stay as they are.
    """
    return None if text is None else re.sub(r"(?<=[^\n])\n(?=[^\s])", " ", inspect.cleandoc(text))


def _without_python_types(parameters: list[Any]) -> list[Any]:
    """Remove the types that typer shows for a flag, `--quiet <bool>`, and for an argument, `IMAGE <list[Path]>`.

    The usage line shows a required argument without typer's braces: `TARGET`, not `{TARGET}`.
    """
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
        elif isinstance(parameter, TyperArgument):
            # typer has no setting for either, and builds its arguments itself, so that a subclass is not used.
            usage = parameter._usage_display_name().replace("{", "").replace("}", "")  # noqa: SLF001
            vars(parameter).update(display_type_rich=_no_type, _usage_display_name=partial(str, usage))
    return parameters


def _no_type(ctx: Any) -> None:
    """The type shown for an argument."""
