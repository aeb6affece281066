"""Public API: built-in plugins import public names only, as third-party plugins must."""

import ast
import importlib
import pkgutil
from types import ModuleType

import pytest

import distillkit

# Under TYPE_CHECKING, plugins may also import the types of a data set's arguments.
PUBLIC_MODULES = (
    "distillkit",
    "distillkit.models",
    "distillkit.evaluation",
    "distillkit.data",
    "distillkit.pages",
    "distillkit.plugin.registry",
)


@pytest.fixture(scope="module")
def imports(root):
    """(file, module, name) of every import of the built-in plugins from the core at run time."""
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
    assert [f"{path}: {module}" for path, module, _ in imports if module not in PUBLIC_MODULES] == []


def test_built_in_plugins_import_public_names(imports):
    modules = {name: importlib.import_module(name) for name in PUBLIC_MODULES[:5]}
    private = [
        f"{path}: {module}.{name}"
        for path, module, name in imports
        if module in modules and name not in modules[module].__all__
    ]
    assert private == []


@pytest.mark.parametrize("package", ["distillkit", "distillkit_export"])
def test_no_public_name_is_that_of_a_submodule(package):
    """Importing a submodule sets it as an attribute of its package, which would replace a function of the same name."""
    module = importlib.import_module(package)
    assert {found.name for found in pkgutil.iter_modules(module.__path__)} & set(module.__all__) == set()


def test_every_public_name_exists_and_is_in_dir():
    assert distillkit.__all__ == sorted(distillkit.__all__)
    assert set(distillkit.__all__) <= set(dir(distillkit))
    assert [name for name in distillkit.__all__ if isinstance(getattr(distillkit, name), ModuleType)] == []


def test_an_unknown_name_raises_the_usual_attribute_error():
    with pytest.raises(AttributeError) as caught:
        _ = distillkit.train
    assert str(caught.value) == "module 'distillkit' has no attribute 'train'"
