"""Where the project lies, what git tracks of it, and what its pyproject.toml says."""

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
    """Every tracked text file: its path from the root, and its text."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there are no tracked files to look at")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = {}
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if not path.is_file() or b"\0" in path.read_bytes():
            continue
        texts[name] = path.read_text(encoding="utf-8")
    return texts
