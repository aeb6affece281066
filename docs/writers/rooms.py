"""The map of the house: every room with the first line of its docstring, from the top floor to the bottom."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from writers.recipe import cell

ROOT = Path(__file__).parents[2]
SOURCES = {
    "distillkit": ROOT / "distillkit",
    "distillkit_export": ROOT / "export" / "distillkit_export",
    "distillkit_plugins": ROOT / "plugins" / "distillkit_plugins",
    "distillkit_cli": ROOT / "cli" / "distillkit_cli",
}


def page() -> str:
    """A table for the core and one for export, floor by floor; the plugins, which stand side by side."""
    contracts = tomllib.loads((ROOT / "scripts" / "floors.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    floors = {contract["containers"][0]: contract["layers"] for contract in contracts["contracts"][1:]}
    sections = [_table(package, layers) for package, layers in floors.items()]
    plugins = sorted(path.parent.name for path in SOURCES["distillkit_plugins"].glob("*/__init__.py"))
    return "\n\n".join([*sections, _table("distillkit_plugins", [" | ".join(plugins)])])


def _table(package: str, layers: list[str]) -> str:
    root = SOURCES[package].relative_to(ROOT).as_posix()
    rows = [f"### `{root}/`", "", "| room | holds |", "|---|---|"]
    return "\n".join([*rows, *(row for layer in layers for row in _rows(package, layer.split(" | ")))])


def _rows(package: str, rooms: list[str]) -> Iterator[str]:
    for room in rooms:
        folder = SOURCES[package] / room
        path, name = (
            (folder / "__init__.py", f"{room}/") if folder.is_dir() else (folder.with_suffix(".py"), f"{room}.py")
        )
        yield f"| `{name}` | {cell(_first_line(path))} |"


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
