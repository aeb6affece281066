"""How a verb is shown by --help (no type where an option takes no value), and what its stdout is."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

NAMES = {"help_option_names": ["--help", "-h"]}


class Verb(TyperCommand):
    """A verb, in whose help flags have no type. What a plugin prints goes to stderr: stdout is for results."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type_of_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        with redirect_stdout(sys.stderr):
            return super().invoke(ctx)


class Verbs(TyperGroup):
    """The command with its verbs; as `Verb`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type_of_flags(super().get_params(ctx))


def _without_type_of_flags(parameters: list[Any]) -> list[Any]:
    """Typer shows a flag as `--quiet <bool>`, as if a value had to follow; --help, which it adds by itself, too."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
    return parameters
