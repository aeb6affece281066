"""The distribution: its metadata in pyproject.toml, and the contents of the wheel."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

import distillkit

PACKAGES = ("distillkit", "distillkit_cli", "distillkit_export", "distillkit_plugins")
EXTRAS = {
    "train",
    "export",
    "export-gpu",
    "onnx",
    "runtime",
    "gpu",
    "trt",
    "openvino",
    "pandas",
    "timm-data",
    "tune",
    "dev",
}


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(contents, name):
    (path,) = [path for path in contents if path.endswith(f".dist-info/{name}")]
    return contents[path].decode()


def test_the_wheel_is_for_every_platform(wheel):
    assert wheel.name == f"distillkit-{distillkit.__version__}-py3-none-any.whl"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_in_the_wheel_and_typed(package, contents):
    assert f"{package}/__init__.py" in contents
    assert f"{package}/py.typed" in contents


def test_every_module_and_recipe_on_disk_is_in_the_wheel(root, contents):
    roots = {"distillkit": root, "distillkit_cli": root / "cli", "distillkit_export": root / "export"}
    roots["distillkit_plugins"] = root / "plugins"
    on_disk = {
        path.relative_to(folder).as_posix()
        for package, folder in roots.items()
        for pattern in ("*.py", "*.toml", "py.typed")
        for path in (folder / package).rglob(pattern)
    }
    assert sorted(on_disk - set(contents)) == []
    assert any(re.fullmatch(r"distillkit/recipe/named/[\w.-]+\.toml", name) for name in on_disk)


def test_nothing_else_is_in_the_wheel(contents):
    others = [name for name in contents if name.partition("/")[0] not in PACKAGES and ".dist-info/" not in name]
    assert others == []


def test_the_wheel_contains_the_licence_and_the_readme(contents, root):
    (licence,) = [path for path in contents if path.endswith(".dist-info/licenses/LICENSE")]
    assert contents[licence] == (root / "LICENSE").read_bytes()
    head = Parser().parsestr(metadata(contents, "METADATA"))
    assert head["License-Expression"] == "Apache-2.0"
    assert head.get_payload().strip() == (root / "README.md").read_text(encoding="utf-8").strip()


def test_the_wheel_has_the_command_and_every_entry_point(contents, pyproject):
    text = metadata(contents, "entry_points.txt")
    assert "[console_scripts]\ndistillkit = distillkit_cli.main:main\n" in text
    for name, module in pyproject["project"]["entry-points"]["distillkit"].items():
        assert f"\n{name} = {module}\n" in text


def test_the_installed_version_is_the_one_in_the_code():
    assert version("distillkit") == distillkit.__version__


def test_pillow_stays_below_the_version_that_breaks_randaugment(pyproject):
    """Pillow 13 raises in ImageOps.posterize(bits=0), which timm's increasing RandAugment calls."""
    bounds = {Requirement(line).name: Requirement(line).specifier for line in pyproject["project"]["dependencies"]}
    assert not bounds["pillow"].contains("13.0.0")
    assert bounds["pillow"].contains("12.3.0")


def test_torch_and_timm_are_extras(pyproject):
    base = {Requirement(line).name for line in pyproject["project"]["dependencies"]}
    assert base.isdisjoint({"torch", "timm", "torchvision", "onnx", "onnxruntime", "scikit-learn", "matplotlib"})
    assert set(pyproject["project"]["optional-dependencies"]) == EXTRAS


def test_public_names_are_sorted_and_exist():
    assert distillkit.__all__ == sorted(distillkit.__all__)
    assert [name for name in distillkit.__all__ if not hasattr(distillkit, name)] == []
