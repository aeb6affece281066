"""Entry points, catalogues and modules on disk agree. pip reads a new entry point only when it installs."""

import ast
import importlib
from importlib.metadata import entry_points

import pytest

from distillkit.plugin.discovery import REGISTRATION_HOOKS

REINSTALL = "run `make test`, or: pip install -e . (pip reads entry points only when it installs)"
SOURCE_ROOTS = ("plugins", "export")


def module_name(path, source_root):
    return ".".join(path.relative_to(source_root).with_suffix("").parts)


@pytest.fixture(scope="module")
def catalogs(root):
    """All catalogues on disk: their paths by module name."""
    return {
        module_name(path, root / folder): path
        for folder in SOURCE_ROOTS
        for path in sorted((root / folder).rglob("catalog.py"))
    }


@pytest.fixture(scope="module")
def declared(pyproject):
    return pyproject["project"]["entry-points"]["distillkit"]


def test_every_catalogue_on_disk_has_an_entry_point(catalogs, declared):
    missing = sorted(set(catalogs) - set(declared.values()))
    assert not missing, f"add to [project.entry-points.distillkit] of pyproject.toml: {missing}; then {REINSTALL}"


def test_every_entry_point_names_a_catalogue_on_disk(catalogs, declared):
    assert sorted(set(declared.values()) - set(catalogs)) == []


def test_the_installed_entry_points_are_those_in_pyproject(declared):
    installed = {
        found.name: found.value
        for found in entry_points(group="distillkit")
        if found.dist is not None and found.dist.name == "distillkit"
    }
    assert installed == declared, REINSTALL


def test_every_plugin_module_on_disk_is_used_by_its_catalogue(catalogs):
    """A module in the folder of a catalogue contains a factory, or is imported by one that does; else it is unused."""
    for name, path in catalogs.items():
        package = name.rpartition(".")[0]
        if not package.startswith("distillkit_plugins."):
            continue
        on_disk = {module_name(found, path.parent) for found in path.parent.rglob("*.py")}
        reached = reachable(path.parent, package, {module for module, _ in factories(name)})
        # The __init__.py of a package is imported with any of its modules.
        unused = {module for module in on_disk if module != "catalog" and not module.endswith("__init__")} - reached
        assert not unused, f"no PluginSpec of {name} leads to: {sorted(unused)}"


def test_every_factory_exists(catalogs, root):
    """Read from the source code, so that no extra needs to be installed."""
    for name in catalogs:
        for module, attribute in factories(name):
            files = [path for folder in (*SOURCE_ROOTS, ".", "cli") if (path := source(root / folder, module))]
            assert files, f"{name} names {module}:{attribute}, but this module does not exist"
            tree = ast.parse(files[0].read_text(encoding="utf-8"))
            defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
            assert attribute in defined, f"{name} names {module}:{attribute}, which is not defined there"


def factories(catalog):
    """The (module, attribute) of every factory that a catalogue names, and of every function `missing_file`."""
    module = importlib.import_module(catalog)
    specs = [spec for hook in REGISTRATION_HOOKS.values() if hasattr(module, hook) for spec in getattr(module, hook)()]
    named = {text for spec in specs for text in (spec.factory, spec.missing_file) if text}
    return [tuple(text.split(":")) for text in sorted(named)]


def source(folder, module):
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def reachable(folder, package, modules):
    """`modules` and the modules of `package` that they import, directly or indirectly; names relative to `folder`."""
    found = set()
    waiting = [module.removeprefix(f"{package}.") for module in modules if module.startswith(f"{package}.")]
    while waiting:
        module = waiting.pop()
        path = source(folder, module)
        if module in found or path is None:
            continue
        found.add(module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
                inner = (node.module or "").removeprefix(package).lstrip(".")
                waiting.extend([inner, *(f"{inner}.{alias.name}".lstrip(".") for alias in node.names)])
    return found
