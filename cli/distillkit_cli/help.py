"""How --help shows what an option takes: nothing where it takes no value."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

NAMES = {"help_option_names": ["--help", "-h"]}


class Verb(TyperCommand):
    """A verb, in whose help flags have no type."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type_of_flags(super().get_params(ctx))


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
