"""docs/threats.md: every attempt on a promise that a test makes, grouped by the promise.

Such a test has a docstring that starts with `Promise:` followed by `Attempt:`, what a third party brings.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
ATTEMPT = re.compile(r"Promise: (?P<promise>.+?)\s+Attempt: (?P<attempt>.+)", re.DOTALL)


def page() -> str:
    """The page's text."""
    tables: dict[str, list[str]] = defaultdict(list)
    for promise, attempt, test in sorted(attempts()):
        tables[promise].append(f"| {attempt} | `{test}` |")
    head = "| what a third party brings | shown by |\n| --- | --- |\n"
    return "\n\n".join(f"## {promise}\n\n{head}" + "\n".join(rows) for promise, rows in sorted(tables.items()))


def attempts() -> Iterator[tuple[str, str, str]]:
    """Promise, attempt and test of every test that makes one."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            found = ATTEMPT.fullmatch((ast.get_docstring(node) or "").strip())
            if found:
                file = path.relative_to(TESTS.parent).as_posix()
                yield _sentence(found["promise"]), _cell(found["attempt"]), f"{file}::{node.name}"


def _sentence(text: str) -> str:
    """A sentence on one line, with a capital letter and without a full stop."""
    plain = " ".join(text.split()).rstrip(".")
    return plain[0].upper() + plain[1:]


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|")
