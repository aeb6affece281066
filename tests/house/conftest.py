"""Fixtures for checks of the repository: its root, its tracked texts, and its pyproject.toml."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tracked_texts():
    """All tracked text files: their texts by their paths relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so no files are tracked")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = {}
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if not path.is_file() or b"\0" in path.read_bytes():
            continue
        texts[name] = path.read_text(encoding="utf-8")
    return texts
