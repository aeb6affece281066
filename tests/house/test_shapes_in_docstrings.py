"""Public functions that take or return tensors give the shapes in their docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("distillkit", "cli/distillkit_cli", "export/distillkit_export", "plugins/distillkit_plugins")
TENSOR = re.compile(r"\b(Tensor|NDArray|ndarray)\b")
SHAPE = re.compile(r"\[(\.\.\.|[A-Za-z0-9_]+)?(, ?(\.\.\.|[A-Za-z0-9_ */+-]+))*\]|any shape", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_without_shapes(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of every public function with a tensor in its signature and no shape in its docstring.

    A method may leave it to the docstring of its class where that has a `Shapes:` line.
    """

    def visit(body: list[ast.stmt], owner: str, inherited: bool) -> Iterator[tuple[int, str]]:
        for node in body:
            public = not getattr(node, "name", "_").startswith("_") or getattr(node, "name", "") == "__call__"
            if isinstance(node, ast.ClassDef) and public:
                yield from visit(node.body, f"{node.name}.", "Shapes:" in (ast.get_docstring(node) or ""))
            elif isinstance(node, Function) and public and not inherited:
                annotations = [
                    node.returns,
                    *(argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg)),
                ]
                text = " ".join(ast.unparse(annotation) for annotation in annotations if annotation is not None)
                if TENSOR.search(text) and not SHAPE.search(ast.get_docstring(node) or ""):
                    yield node.lineno, owner + node.name

    yield from visit(ast.parse(source).body, "", inherited=False)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_functions_of_tensors_give_shapes(package: str) -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, name in functions_without_shapes(path.read_text())
    ]
    assert not missing, "no shapes in the docstring, such as [B, K]:\n" + "\n".join(missing)


def test_a_function_without_shapes_is_found() -> None:
    source = '''
def double(values: Tensor) -> Tensor:
    """Twice the values."""


def halve(values: Tensor) -> Tensor:
    """Half of the values [B, K]."""


class Loss:
    """A loss.

    Shapes: logits [B, K] become a term [B].
    """

    def forward(self, logits: Tensor) -> Tensor:
        """The term."""


class Model:
    """A model."""

    def forward(self, images: dict[str, Tensor]) -> None:
        """Look at images."""

    def _inner(self, images: Tensor) -> None: ...
'''
    assert list(functions_without_shapes(source)) == [(2, "double"), (23, "Model.forward")]
