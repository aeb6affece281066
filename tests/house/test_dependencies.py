"""pyproject.toml declares exactly the imported packages, and constraints.txt pins all that `make` installs."""

import ast
import re
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = ("distillkit", "cli/distillkit_cli", "export/distillkit_export", "plugins/distillkit_plugins")
DISTRIBUTION_OF_MODULE = {
    "PIL": "pillow",
    "cuda": "cuda-bindings",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
}
"""Distributions whose name differs from the module's by more than a dash."""
ALTERNATIVES = {"onnxruntime-gpu": "onnxruntime"}
"""Distributions that install the same module as another one."""
UNDECLARED = {
    "pydantic_core": "pydantic pins it exactly, and documents what to import from it",
    "typing_extensions": "imported for type checkers only, which bundle it",
}
IMPORTED_BY_OTHERS = {
    "datasets": "timm's readers",
    "webdataset": "timm's readers",
    "onnxscript": "torch's exporter to ONNX",
}


def names(requirements):
    return {canonicalize_name(Requirement(each).name) for each in requirements} - {"distillkit"}


def distribution_of(module):
    return canonicalize_name(DISTRIBUTION_OF_MODULE.get(module, module))


def undeclared(imports, declared):
    return sorted(
        f"{path}: {module}"
        for path, module in imports
        if module not in UNDECLARED and distribution_of(module) not in declared
    )


def unused(imports, declared):
    used = {distribution_of(module) for _, module in imports} | set(IMPORTED_BY_OTHERS)
    return sorted(name for name in declared if ALTERNATIVES.get(name, name) not in used)


@pytest.fixture(scope="module")
def imports(root):
    """(file, top-level module) of every third-party import, also in functions and under TYPE_CHECKING."""
    return {
        (path.relative_to(root).as_posix(), module.partition(".")[0])
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        for module in imported(path.read_text(encoding="utf-8"))
        if module.partition(".")[0] not in sys.stdlib_module_names and not module.startswith("distillkit")
    }


def imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


@pytest.fixture(scope="module")
def declared(pyproject):
    """The distributions that users can install, with or without extras."""
    extras = pyproject["project"]["optional-dependencies"]
    optional = (line for name in extras if name != "dev" for line in extras[name])
    return names([*pyproject["project"]["dependencies"], *optional])


def test_every_import_is_declared(imports, declared):
    assert undeclared(imports, declared) == []
    assert undeclared({("a.py", "torch"), ("a.py", "sklearn"), ("b.py", "requests")}, declared) == ["b.py: requests"]


def test_every_declared_dependency_is_imported(imports, declared):
    assert unused(imports, declared) == []
    assert unused(imports, declared | {"tensorboard", "torch"}) == ["tensorboard"]


@pytest.mark.parametrize(
    ("extras", "runtime"),
    [
        ("runtime", "onnxruntime"),
        ("train,export", "onnxruntime"),
        ("gpu", "onnxruntime-gpu"),
        ("train,export-gpu", "onnxruntime-gpu"),
    ],
)
def test_one_onnx_runtime_is_installed(extras, runtime, pyproject):
    project = pyproject["project"]

    def requirements(extra):
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == "distillkit":
                for inner in requirement.extras:
                    yield from requirements(inner)
            else:
                yield requirement.name

    named = [name for extra in extras.split(",") for name in requirements(extra)]
    assert [name for name in named if name.startswith("onnxruntime")] == [runtime]
    assert ("onnx" in named) == ("export" in extras)


@pytest.fixture(scope="module")
def pins(root):
    """The requirements in constraints.txt."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in (line.partition("#")[0].strip() for line in lines) if line]


def test_every_pin_is_a_version_within_the_bounds_that_are_declared(pins, pyproject):
    project = pyproject["project"]
    extras = project["optional-dependencies"].values()
    bounds = {}
    for requirement in map(Requirement, [*project["dependencies"], *(line for extra in extras for line in extra)]):
        bounds[canonicalize_name(requirement.name)] = requirement.specifier
    for pin in pins:
        (exactly,) = pin.specifier
        assert exactly.operator == "=="
        assert bounds.get(pin.name, exactly).contains(exactly.version), pin


def test_all_that_make_installs_is_pinned(pins, root, closure):
    """All installed dependencies of distillkit, direct and indirect, have the pinned version."""
    (extras,) = re.findall(r"^EXTRAS := (\S+)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    here = {pin.name: str(pin.specifier) for pin in pins if pin.marker is None or pin.marker.evaluate()}
    needed = {canonicalize_name(name) for name, *_ in closure(f"distillkit[{extras}]")} - {"distillkit", "pip"}
    assert {name: here.get(name) for name in needed} == {name: f"=={version(name)}" for name in needed}
