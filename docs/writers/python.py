"""docs/reference/python.md: the functions of distillkit.api and their return types, from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import distillkit
from distillkit import api
from distillkit.contracts.model import ModelSpec
from distillkit.evaluation.measurement import Measurement
from distillkit.sweeping.result import SweepRow

FUNCTIONS = (
    *("load_recipe", "plan", "run", "resume", "run_together", "sweep"),
    *("evaluate", "compare", "load_student", "read_metrics"),
    "with_student",
)
"""In the order in which a script typically calls them."""
VALUES = (
    distillkit.RunResult,
    distillkit.EvaluationResult,
    Measurement,
    distillkit.SweepResult,
    SweepRow,
    distillkit.Comparison,
    distillkit.Plan,
    ModelSpec,
)
LEAD = re.compile(r"^(Raises|Shapes|Returns)\b(:?)")


def page() -> str:
    """One section per function, and one for the return types."""
    if set(FUNCTIONS) != set(api.__all__):
        raise SystemExit(f"docs/writers/python.py lists {FUNCTIONS}, and distillkit.api has {api.__all__}")
    functions = (_function(getattr(api, name)) for name in FUNCTIONS)
    return "\n\n".join([*functions, "## Return types", *map(_value, VALUES)])


def _function(function: Callable[..., Any]) -> str:
    return f"## `{function.__name__}`\n\n```python\n{_signature(function)}\n```\n\n{_described(function)}"


def _signature(function: Callable[..., Any]) -> str:
    """One parameter per line, annotations as in the source."""
    signature = inspect.signature(function)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    lines = [_parameter(parameter) for parameter in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        lines.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    listed = "".join(f"    {line},\n" for line in lines)
    return f"def {function.__name__}(\n{listed}) -> {signature.return_annotation}: ..."


def _parameter(parameter: inspect.Parameter) -> str:
    stars = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
    default = f'"{parameter.default}"' if isinstance(parameter.default, str) else repr(parameter.default)
    given = "" if parameter.default is inspect.Parameter.empty else f" = {default}"
    return f"{stars}{parameter.name}: {parameter.annotation}{given}"


def _value(kind: type[Any]) -> str:
    fields = ", ".join(f"`{name}`" for name in kind.__annotations__)
    return f"### `{kind.__name__}`\n\n{_described(kind)}\n\nFields: {fields}."


def _described(documented: object) -> str:
    """A docstring as Markdown, its example as a code block."""
    text, _, example = (inspect.getdoc(documented) or "").partition("\n\nFor example:\n")
    parts = [LEAD.sub(r"**\1**\2", part) for part in text.split("\n\n")]
    if example:
        parts.append(f"```pycon\n{inspect.cleandoc(example)}\n```")
    return "\n\n".join(parts)
