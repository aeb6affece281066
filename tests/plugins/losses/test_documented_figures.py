"""The output that docs/losses.md shows is what its code prints."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "losses.md"


def test_the_code_of_the_page_prints_the_output_it_shows(capsys):
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (printed,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == printed
