"""The third-party loss in README.md and docs/plugins.md: the file that the tests build and run."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[2] / "tests" / "third_party" / "distillkit-margin" / "distillkit_margin.py"


def page() -> str:
    """The file as a block of code."""
    return f"```python\n{SOURCE.read_text(encoding='utf-8').strip()}\n```"
