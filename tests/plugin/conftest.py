"""Fake distributions with plugins, laid out as pip would install them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution with one entry point on the path: `install("name", "1.0", module="code")`."""

    def add(name: str, version: str, *, entry_point: str, module: str, code: str) -> None:
        root = tmp_path / name
        metadata = root / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[distillkit]\n{entry_point} = {module}\n")
        (root / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(root)

    return add
