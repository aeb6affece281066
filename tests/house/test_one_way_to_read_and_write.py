"""One way to read and write files: `distillkit.storage`, which follows no planted link and waits for no pipe."""

import ast

import pytest

PRODUCT = ("distillkit/", "cli/", "export/", "plugins/")
STORAGE = "distillkit/storage/"
WRITES = {"write_text", "write_bytes", "savefig", "savez", "savez_compressed", "save_model", "save_file", "touch"}
READS = {"read_text", "read_bytes"}
ALLOWED = {
    # A folder that no other user can write to: the new folder of an export, or a temporary folder.
    ("export/distillkit_export/doctor/trial.py", "onnx.write_bytes"),
    ("export/distillkit_export/gate/samples.py", "np.savez_compressed"),
    ("export/distillkit_export/onnx/metadata.py", "onnx.save_model"),
    ("distillkit/testing/runtime.py", "broken.write_bytes"),
    ("distillkit/testing/exporter.py", "path.read_bytes"),
    # Into memory.
    ("distillkit/benchmark/chart.py", "figure.savefig"),
    ("distillkit/evaluation/attention_figure.py", "figure.savefig"),
    ("export/distillkit_export/profiling/charts.py", "figure.savefig"),
    ("plugins/distillkit_plugins/trackers/curves.py", "figure.savefig"),
    # The bytes of a network's messages or of the standard output.
    ("cli/distillkit_cli/terminal.py", "Path(os.devnull).open('w')"),
    # Files of this machine, its package or its user.
    ("distillkit/compute/machine.py", "file.read_text"),
    ("export/distillkit_export/profiling/worker.py", "status.read_text"),
    ("export/distillkit_export/tensorrt/building.py", "onnx.read_bytes"),
    ("export/distillkit_export/tensorrt/exporter.py", "plan.read_bytes"),
    ("export/distillkit_export/tensorrt/running.py", "file.read_bytes"),
    ("plugins/distillkit_plugins/evaluators/real_labels.py", "path.read_text"),
}
"""Calls that need no protection, each for the reason above it."""


def findings(name: str, text: str) -> set[tuple[str, str]]:
    """The calls of a module that read or write a file under its name."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            call = ast.unparse(node.func)
            last = call.rpartition(".")[2]
            if "." in call and last in WRITES | READS:
                found.add((name, call))
            elif last == "open" and (mode := _mode(node)):
                found.add((name, f"{call}({mode!r})"))
    return found


def _mode(node: ast.Call) -> str:
    """The mode of a file that is opened to write; "" for all else."""
    given = [*node.args, *(each.value for each in node.keywords if each.arg == "mode")]
    modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((mode for mode in modes if set(mode) <= set("wabx+t") and set(mode) & set("wax")), "")


def test_files_are_read_and_written_by_storage_alone(tracked_texts):
    modules = {
        name: text
        for name, text in tracked_texts.items()
        if name.startswith(PRODUCT) and not name.startswith(STORAGE) and name.endswith(".py")
    }
    assert modules
    assert set().union(*(findings(name, text) for name, text in modules.items())) == ALLOWED


@pytest.mark.parametrize(
    "line", ["path.write_text(x)", "open(path, 'w')", "path.open('ab')", "np.savez(path)", "path.read_bytes()"]
)
def test_the_search_finds_other_ways(line):
    assert findings("module.py", line)


@pytest.mark.parametrize("line", ["write_text(path, x)", "open(path)", "runtime.open(file)", "Image.open(path)"])
def test_the_search_ignores_storage(line):
    assert not findings("module.py", line)
