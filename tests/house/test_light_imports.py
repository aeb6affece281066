"""Help and listings stay fast: torch, timm and other slow packages are imported only when needed."""

import ast
import functools
import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "torchvision", "sklearn", "matplotlib", "onnx", "onnxruntime")
MODULES = (
    "distillkit",
    "distillkit.errors",
    "distillkit.contracts.loss",
    "distillkit.plugin.hookspecs",
    "distillkit.plugin.discovery",
    "distillkit.plugin.registry",
    "distillkit.planning.names",
    "distillkit.recipe.schema",
    "distillkit.recipe.files",
    "distillkit.api",
    "distillkit_cli.main",
)
RUN_COMMAND = """
import contextlib, io, sys
from distillkit_cli.main import main
sys.argv = ["distillkit", *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
"""


def heavy_modules_after(code):
    """The heavy modules that `code` imports in a new interpreter."""
    report = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def heavy_modules_after_each():
    """What is loaded after each of `MODULES`, imported in turn: the first to load a heavy one is to blame."""
    code = f"""
import importlib, sys
loaded = {{}}
for name in {MODULES!r}:
    importlib.import_module(name)
    loaded[name] = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
print(loaded)
"""
    return ast.literal_eval(heavy_modules_after(code).splitlines()[0])


@pytest.mark.parametrize("module", MODULES)
def test_importing_loads_nothing_heavy(module):
    assert heavy_modules_after_each()[module] == []


def test_loading_a_recipe_in_a_script_loads_nothing_heavy():
    code = "from distillkit import Recipe, load_recipe, plan, read_metrics, run; load_recipe(data='digits')"
    assert heavy_modules_after(code) == "[]"


def test_discovering_every_plugin_loads_nothing_heavy():
    assert heavy_modules_after("from distillkit.plugin.registry import installed_plugins; installed_plugins()") == "[]"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plugins"], ["plugins", "--json"], ["recipes"]], ids=" ".join
)
def test_commands_that_only_list_load_nothing_heavy(arguments):
    assert heavy_modules_after(RUN_COMMAND.format(arguments=arguments)) == "[]"
