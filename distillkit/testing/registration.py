"""Checks of every plugin: its entry in the listing and its options."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from distillkit.compute.interpreters import code_command, environment
from distillkit.messages.text import one_line
from distillkit.testing.subject import PluginUnderTest

HEAVY = ("torch", "timm")


class SlowListingWarning(UserWarning):
    """A registering module imports torch or timm, which makes every look-up of a plugin slow, not wrong."""


def listing_is_clear(subject: PluginUnderTest) -> Iterator[str]:
    """Name and summary are fit for `distillkit plugins` and the command line."""
    if subject.registered is None:
        return
    spec = subject.registered.spec
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", spec.name):
        yield f"the name '{spec.name}' is not lower-case words joined by hyphens"
    if not spec.summary.strip() or "\n" in spec.summary:
        yield f"the summary in its PluginSpec is {spec.summary!r}; it must be one line"


def options_are_data(subject: PluginUnderTest) -> Iterator[str]:
    """`Options` is a frozen pydantic model that refuses unknown keys."""
    options = getattr(subject.factory, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        yield "has no 'Options'; add a nested frozen pydantic model, without fields if the plugin has no options"
        return
    if not options.model_config.get("frozen"):
        yield "Options are mutable after validation; set frozen=True in the model"
    if options.model_config.get("extra") != "forbid":
        yield "Options accept unknown keys, so a typo goes unnoticed; set extra='forbid' in the model"


def options_survive_a_file(options: BaseModel) -> Iterator[str]:
    """Options written to a run's recipe file read back as the same options."""
    written: dict[str, Any] = json.loads(options.model_dump_json(by_alias=True, exclude_none=True))
    try:
        read = type(options).model_validate(written)
    except ValueError as error:
        yield f"Options written to a recipe as {written} cannot be read back: {one_line(error)}"
        return
    if read != options:
        yield f"Options written to a recipe as {written} read back as different options"


def warn_of_slow_listing(subject: PluginUnderTest, *, stacklevel: int) -> None:
    """Warn if the module that registers the plugin imports torch or timm.

    `stacklevel` counts from the caller, as in `warnings.warn`.
    """
    if subject.registered is None:
        return
    module = subject.registered.owner.module
    heavy = _imports(module)
    if heavy:
        warnings.warn(
            f"{subject.title}: module {module} imports {' and '.join(heavy)} when it registers its plugins, which "
            f"slows down `distillkit plugins` and errors about misspelt names; move the class to a separate module and "
            f"name it in `factory`",
            SlowListingWarning,
            stacklevel=stacklevel + 1,
        )


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The packages of HEAVY that importing `module` loads, tried in a new interpreter."""
    # In a new interpreter, because this one has imported torch already.
    program = (
        f"import importlib, sys; importlib.import_module(sys.argv[1]); print(*({set(HEAVY)} & sys.modules.keys()))"
    )
    process = subprocess.run(  # noqa: S603 - this interpreter, on a module that this process has imported already
        code_command(program, module),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return tuple(sorted(process.stdout.split()))
