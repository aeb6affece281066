"""docs/threats.md lists every test that makes an attempt on a promise."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from writers.threats import attempts  # noqa: E402


def test_every_promise_has_an_attempt_and_is_on_the_page():
    named = {
        f"{path.relative_to(ROOT).as_posix()}::{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and "Promise:" in (ast.get_docstring(node) or "")
    }
    assert {test for _, _, test in attempts()} == named
    assert len(named) > 80
