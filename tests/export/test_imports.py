"""The modules that run on a target machine import without torch and timm."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import distillkit_export

HANDLE_THE_MODEL = {
    *("from_torch.graph", "from_torch.image_size", "gate.first_torch_module", "gate.torch_half", "images.run_images"),
    *("pipeline.target", "runtimes.torch_session"),
}
TORCH_FREE = sorted(
    module.name
    for module in pkgutil.walk_packages(distillkit_export.__path__, "distillkit_export.")
    if module.name.removeprefix("distillkit_export.") not in HANDLE_THE_MODEL
    and not module.name.startswith("distillkit_export.tensorrt.")  # which import torch if it is installed
)
BLOCK = "import sys; sys.modules.update(dict.fromkeys({blocked!r})); "


def run(code, *blocked):
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code], capture_output=True, text=True, check=False
    )


def test_everything_but_the_model_imports_without_torch_timm_and_onnx():
    imports = "; ".join(f"import {name}" for name in TORCH_FREE)
    finished = run(
        f"import distillkit.contracts.exporter; {imports}", "torch", "timm", "onnx", "onnxruntime", "sklearn"
    )
    assert finished.stderr == ""
    assert {"distillkit_export.onnx.session", "distillkit_export.profiling.profile"} <= set(TORCH_FREE)


def test_the_public_functions_are_importable_without_torch():
    code = "from distillkit_export import ExportOptions, ExportResult, export, load; print(export.__module__)"
    finished = run(code, "torch", "timm", "onnx", "onnxruntime", "sklearn")
    assert (finished.stdout, finished.stderr) == ("distillkit_export.pipeline.export\n", "")


def test_export_without_torch_names_the_extra():
    finished = run("from distillkit_export import export; export('timm:resnet18')", "torch")
    assert finished.stderr.splitlines()[-1] == (
        "distillkit.errors.MissingExtraError: distillkit export needs torch, which is not installed; "
        'pip install "distillkit[train]"'
    )


@pytest.mark.parametrize(
    ("missing", "extra"), [("onnx", "export"), ("onnxscript", "export"), ("onnxruntime", "export"), ("torch", "train")]
)
def test_missing_package_names_its_extra_before_any_work(missing, extra):
    code = "from distillkit_export.onnx.exporter import OnnxExporter as Exporter; Exporter(Exporter.Options()).check()"
    finished = run(code, missing)
    assert finished.stderr.splitlines()[-1] == (
        f"distillkit.errors.MissingExtraError: the export to ONNX needs {missing}, which is not installed; "
        f'pip install "distillkit[{extra}]"'
    )
