"""What docs/losses.md says that its code prints is what it prints."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "losses.md"


def test_the_code_of_the_page_prints_what_the_page_says(capsys):
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (printed,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == printed
