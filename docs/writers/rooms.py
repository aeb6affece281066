"""The map in docs/architecture.md: every room with the first line of its docstring, and the reading order."""

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
READING_ORDER = {
    "distillkit/contracts/model.py": "what teachers and students return: signals, `Outputs`, `ModelSpec`",
    "distillkit/contracts/loss.py": "the contract of a loss: `reads_*`, `target`, `forward`",
    "distillkit/training/loop.py": "the loop: windows, steps, and what happens every N steps",
    "distillkit/training/step.py": "one optimiser step: micro-batches, gradient accumulation, clipping",
    "distillkit/training/task.py": "one forward pass: student, losses, weights, terms",
    "distillkit/training/teacher_targets.py": "the teacher's forward pass, and `Loss.target`",
    "plugins/distillkit_plugins/losses/hard.py": "one loss: hard distillation (DeiT)",
}
"""The modules of the core of a run, from the contracts to one loss, and their contents."""


def page() -> str:
    """Tables of the core and of export, floor by floor; of plugins and command line; then the reading order."""
    contracts = tomllib.loads((ROOT / "scripts" / "floors.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    floors = {contract["containers"][0]: contract["layers"] for contract in contracts["contracts"][1:]}
    sections = [_table(package, " | ".join(layers).split(" | ")) for package, layers in floors.items()]
    for package in ("distillkit_plugins", "distillkit_cli"):
        entries = (path for path in SOURCES[package].iterdir() if path.name not in ("__init__.py", "__pycache__"))
        rooms = sorted(path.stem for path in entries if path.suffix == ".py" or (path / "__init__.py").is_file())
        sections.append(_table(package, rooms))
    return "\n\n".join([*sections, _reading_order()])


def _table(package: str, rooms: list[str]) -> str:
    root = SOURCES[package].relative_to(ROOT).as_posix()
    return "\n".join([f"### `{root}/`", "", "| room | contents |", "|---|---|", *_rows(package, rooms)])


def _rows(package: str, rooms: list[str]) -> Iterator[str]:
    for room in rooms:
        folder = SOURCES[package] / room
        path, name = (
            (folder / "__init__.py", f"{room}/") if folder.is_dir() else (folder.with_suffix(".py"), f"{room}.py")
        )
        yield f"| `{name}` | {cell(_first_line(path))} |"


def _reading_order() -> str:
    lines = sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in READING_ORDER)
    rows = [f"{number}. [`{name}`](../{name}): {READING_ORDER[name]}" for number, name in enumerate(READING_ORDER, 1)]
    # Rounded, so that small changes of these modules do not change the page.
    return "\n".join(
        [
            "## Reading the code",
            "",
            f"The core of a run, about {lines // 50 * 50} lines (a window is the batch of one optimiser step):",
            "",
            *rows,
        ]
    )


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
