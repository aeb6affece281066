"""Layers of the packages: no import goes up, not even for types; also tests the script that measures it."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

IGNORED = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def measure(root):
    specification = importlib.util.spec_from_file_location("import_graph", root / "scripts" / "import_graph.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def graph(**edges):
    return {room: frozenset(imports.split()) for room, imports in edges.items()}


def test_a_graph_without_cycles_has_no_upward_import(measure):
    house = graph(attic="kitchen cellar", kitchen="cellar", cellar="")
    assert measure.cycles(house) == []
    assert measure.upward(house) == []


def test_each_cycle_is_found_with_one_upward_import(measure):
    house = graph(a="b", b="c", c="a d", d="e", e="d", f="a")
    assert measure.cycles(house) == [["a", "b", "c"], ["d", "e"]]
    assert len(measure.upward(house)) == 2


@pytest.mark.parametrize("package", ["distillkit", "distillkit_export"])
def test_the_packages_have_no_import_cycle(measure, package):
    rooms = measure.rooms(package)
    assert measure.cycles(rooms) == []
    assert measure.upward(rooms) == []


@pytest.fixture
def house(root, tmp_path):
    """A copy of the sources, to which a test can add an import."""
    for folder in ("distillkit", "cli", "export", "plugins"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=IGNORED)
    return tmp_path


def lint(house, root):
    """The exit code and output of the command that `make lint` runs."""
    where = os.pathsep.join(str(house / folder) for folder in ("", "cli", "export", "plugins"))
    command = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, str(root / "scripts" / "floors.toml")],
        cwd=house,
        env=os.environ | {"PYTHONPATH": where},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_no_import_goes_up(house, root):
    code, output = lint(house, root)
    assert (code, "3 kept, 0 broken" in output) == (0, True), output


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("distillkit/messages/text.py", "from distillkit.errors import UserError"),
        ("distillkit/plugin/extras.py", "def later():\n    from distillkit.models.hub import published_weights"),
        ("distillkit/contracts/run.py", "if TYPE_CHECKING:\n    from distillkit.training.loop import train"),
        ("export/distillkit_export/gate/limits.py", "import distillkit_export.pipeline.export"),
        ("distillkit/running/session.py", "import distillkit_cli"),
    ],
)
def test_an_added_upward_import_is_found(house, root, module, line):
    with (house / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    code, output = lint(house, root)
    assert (code, "2 kept, 1 broken" in output) == (1, True), output


def test_a_module_without_a_layer_is_found(house, root):
    (house / "distillkit" / "attic.py").write_text("", encoding="utf-8")
    code, output = lint(house, root)
    assert code == 1
    assert "The following modules are not listed as layers" in output
    assert "attic" in output
