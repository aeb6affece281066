"""Find words that our own texts should not use; scripts/plain_words.toml lists them.

`python scripts/plain_words.py [FILE ...]` prints `file:line:column: 'word'; write instead: ...` for each, and exits
with 1 if there is one. Without files it reads every text file that git tracks.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path("scripts/plain_words.toml")
SKIPPED = {LIST, Path("tests/house/test_plain_words.py"), Path("LICENSE"), Path("constraints.txt")}
"""The list itself and its test, and texts that are not ours."""
TEXT = {".py", ".md", ".toml", ".sh", ".ipynb", ".pyi", ""}
"""File name suffixes of the texts that we write; generated JSON is made from them."""


def tracked_texts() -> list[Path]:
    """The text files that git tracks, relative to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [Path(name) for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT and path not in SKIPPED and (ROOT / path).is_file()]


def findings(text: str, words: dict[str, str], exceptions: dict[str, str]) -> Iterator[tuple[int, int, str, str]]:
    """(line, column, word found, replacement) for each listed word in a text."""
    allowed = [span for pattern in exceptions for span in map(re.Match.span, re.finditer(pattern, text))]
    for word, instead in words.items():
        # A phrase may continue on the next line, also of a comment or in the next string. A word may be part of a name.
        phrase = word.replace(" ", r"""(?:[\s#_]|"\s*f?")+""")
        pattern = rf"(?-i:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?:{phrase})(?-i:(?![a-z]))"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if not any(start <= match.start() and match.end() <= end for start, end in allowed):
                before = text[: match.start()]
                column = match.start() - before.rfind("\n")
                yield before.count("\n") + 1, column, " ".join(match.group().split()), instead


def main(arguments: list[str]) -> int:
    """Print every finding; 1 if there is one."""
    listed = tomllib.loads((ROOT / LIST).read_text(encoding="utf-8"))
    paths = [Path(argument) for argument in arguments] or [ROOT / path for path in tracked_texts()]
    found = [
        f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{line}:{column}: "
        f"'{word}'; write instead: {instead}"
        for path in paths
        for line, column, word, instead in sorted(
            findings(path.read_text(encoding="utf-8"), listed["words"], listed["exceptions"])
        )
    ]
    print("\n".join(found) if found else f"{len(paths)} files without a word of {LIST}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
