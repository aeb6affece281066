"""docs/reference/hooks.md: the docstrings of distillkit.plugin.hookspecs, in the order of their calls in a run."""

from __future__ import annotations

import inspect
import re

from distillkit.plugin import hookspecs

SECTION = re.compile(r"^(Called|Return|Must not|Example|`record`)(?=[: ])", re.MULTILINE)


def page() -> str:
    """One section per hook: its signature and its docstring."""
    hooks = [(name, hook) for name, hook in vars(hookspecs).items() if name.startswith("distillkit_")]
    return "\n\n".join(_section(name, hook) for name, hook in hooks)


def _section(name: str, hook: object) -> str:
    summary, _, details = (inspect.getdoc(hook) or "").partition("\n\n")
    signature = str(inspect.signature(hook)).replace("'", "")  # type: ignore[arg-type]
    paragraphs = SECTION.sub(r"\n**\1**", details).strip()
    return f"## `{name}`\n\n```python\ndef {name}{signature}: ...\n```\n\n{summary}\n\n{_one_line_each(paragraphs)}"


def _one_line_each(text: str) -> str:
    """Each paragraph on one line, as a list."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n".join(f"- {paragraph}" for paragraph in paragraphs if paragraph)
