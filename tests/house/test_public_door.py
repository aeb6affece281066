"""First-party plugins use the third party's door: the public names, and nothing below them."""

import ast
import importlib
import pkgutil
from types import ModuleType

import pytest

import distillkit

# Beside these, the types of a data set's arguments may be named for the type checker.
DOORS = ("distillkit", "distillkit.models", "distillkit.evaluation", "distillkit.data", "distillkit.plugin.registry")


@pytest.fixture(scope="module")
def imports(root):
    """(file, module, name) of everything that the built-in plugins import from the core at run time."""
    found = []
    for path in sorted((root / "plugins").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_checkers = {id(node) for block in type_checking_blocks(tree) for node in ast.walk(block)}
        found += [
            (path.relative_to(root).as_posix(), node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in for_checkers
            if (node.module or "").partition(".")[0] == "distillkit"
            for alias in node.names
        ]
    return found


def type_checking_blocks(tree):
    return [
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
    ]


def test_built_in_plugins_import_from_public_modules(imports):
    assert [f"{path}: {module}" for path, module, _ in imports if module not in DOORS] == []


def test_built_in_plugins_import_public_names(imports):
    doors = {name: importlib.import_module(name) for name in DOORS[:4]}
    private = [
        f"{path}: {module}.{name}"
        for path, module, name in imports
        if module in doors and name not in doors[module].__all__
    ]
    assert private == []


@pytest.mark.parametrize("package", ["distillkit", "distillkit_export"])
def test_no_public_name_is_that_of_a_submodule(package):
    """Importing a submodule puts it into its package, over a function of the same name."""
    module = importlib.import_module(package)
    assert {found.name for found in pkgutil.iter_modules(module.__path__)} & set(module.__all__) == set()


def test_every_public_name_is_there_and_listed():
    assert distillkit.__all__ == sorted(distillkit.__all__)
    assert set(distillkit.__all__) <= set(dir(distillkit))
    assert [name for name in distillkit.__all__ if isinstance(getattr(distillkit, name), ModuleType)] == []


def test_an_unknown_name_is_refused_as_python_does():
    with pytest.raises(AttributeError) as caught:
        _ = distillkit.train
    assert str(caught.value) == "module 'distillkit' has no attribute 'train'"
