"""A third-party export format with its runtime: found, conforming, exported, parity-checked, listed and executed."""

import ast
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import distillkit
import distillkit_export
from tests import forked

SOURCE = Path(__file__).parent / "distillkit-pt2" / "distillkit_pt2.py"
PUBLIC_NAMES = {
    "distillkit": distillkit.__all__,
    "distillkit_export": distillkit_export.__all__,
    "distillkit.errors": None,
    "distillkit.contracts.exporter": None,
    "distillkit.contracts.runtime": None,
}


def test_it_imports_only_public_names():
    ours = [
        node
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.ImportFrom) and "distillkit" in node.module
    ]
    assert {node.module for node in ours} <= PUBLIC_NAMES.keys()
    for node in ours:
        assert PUBLIC_NAMES[node.module] is None or {alias.name for alias in node.names} <= set(
            PUBLIC_NAMES[node.module]
        )


def test_it_is_found_with_its_owner_and_listed_without_torch(python):
    code = """
import sys
import distillkit_pt2
specs = distillkit_pt2.distillkit_exporters() + distillkit_pt2.distillkit_runtimes()
print([spec.name for spec in specs], "torch" in sys.modules)
from distillkit.plugin.registry import installed_plugins
print([str(installed_plugins().find(role, "pt2").owner) for role in ("exporter", "runtime")])
"""
    assert python("-c", code, fresh=True).stdout.splitlines() == [
        "['pt2', 'pt2'] False",
        "['distillkit-pt2 0.3.0', 'distillkit-pt2 0.3.0']",
    ]


def test_it_conforms(python, tmp_path):
    code = """
import warnings
from pathlib import Path
import numpy as np
from distillkit.contracts.exporter import ExportSource
from distillkit.contracts.runtime import Servable
from distillkit.testing import check_exporter, check_runtime
from distillkit.testing.exporter import small_student
import distillkit_pt2 as pt2
warnings.simplefilter("error", category=UserWarning)
check_exporter("pt2")
check_exporter("pt2", {"largest_batch": 8})
artifact = pt2.Pt2Exporter(pt2.Pt2Exporter.Options()).write(small_student(), Path("."), "fp32")
check_runtime("pt2", Servable("pt2", artifact.file), np.ones((4, 3, 16, 24), np.float32))
print("conforms")
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout == "conforms\n", done.stderr


SIZE = ("image_size=8", "patch=4", "width=16", "depth=1", "heads=2")
RUN = " ".join(
    [
        "--quiet run --out run --device cpu --set training.steps=2 --set data.workers=0",
        *(f"--set student.{key}" for key in SIZE),
    ]
)
COMMANDS = """
import sys
from distillkit_cli.main import command_line
for line in sys.argv[1:]:
    code = command_line(line.split())
    print("exit", code)
"""


@pytest.fixture(scope="session")
def bundle(site, tmp_path_factory):
    """The bundle of a digits run, exported to the third-party format by name."""
    folder = tmp_path_factory.mktemp("pt2")
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
    command = ["-c", COMMANDS, RUN, "export run --format pt2 --out b"]
    done = forked.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=folder)
    assert done.stdout.splitlines()[-1] == "exit 0", done.stderr
    return folder / "b"


def test_the_export_checks_its_parity_and_lists_it(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text())
    (artifact,) = (card for card in manifest["artifacts"] if card["format"] == "pt2")
    assert (artifact["file"], artifact["precision"], artifact["gate"]) == ("model.pt2", "fp32", "passed")
    assert artifact["made_with"]["tool"].startswith("torch.export ")
    assert "model.pt2" in manifest["files"]
    parity = json.loads((bundle / "parity.json").read_text())["files"]["model.pt2"]
    assert parity["passed"]


def test_its_runtime_predicts_images(bundle, python):
    for number, digit in enumerate(load_digits().images[:3]):
        Image.fromarray((digit * 255 / 16).astype(np.uint8)).save(bundle.parent / f"{number}.png")
    line = "predict b 0.png 1.png 2.png --json --top 10 --runtime pt2"
    done = python("-c", COMMANDS, line, cwd=bundle.parent)
    answer = json.loads(done.stdout.rpartition("exit")[0])
    assert (answer["runtime"], answer["file"], answer["failed"]) == ("pt2", "model.pt2", [])
    for image in answer["images"]:
        assert sum(entry["probability"] for entry in image["top"]) == pytest.approx(1)


def test_it_is_profiled_next_to_built_in_runtimes(bundle, python):
    line = "profile b --runtime pt2 --runtime onnxruntime-cpu --batches 1 --seconds 0.2 --rounds 2 --out p --json"
    done = python("-c", COMMANDS, line, cwd=bundle.parent)
    assert done.stdout.splitlines()[-1] == "exit 0", done.stderr
    card = json.loads((bundle.parent / "p" / "profile.json").read_text())
    assert {(each["runtime"], each["format"], each["failed"]) for each in card["configurations"]} == {
        ("onnxruntime-cpu", "onnx", None),
        ("pt2", "pt2", None),
    }
    assert all(row["p50_ms"] > 0 for row in card["rows"])
