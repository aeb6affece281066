"""The exporter and the runtime pass the conformance checks for third-party plugins."""

from __future__ import annotations

import numpy as np

from distillkit.contracts.exporter import ExportRequest, ExportSource
from distillkit.contracts.runtime import Servable
from distillkit.testing import check_exporter, check_runtime


def images(count):
    return np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)


def test_exporter(double, onnx_file):
    source = ExportSource(ExportRequest(), onnx={"fp32": onnx_file}, images=images(4), images_from="random")
    check_exporter("tensorrt", {"batch": "1:2:4", "workspace": "1G"}, source=source)


def test_runtime(double, build, onnx_file, tmp_path):
    plan = tmp_path / build(onnx_file, batch="1:2:8").file
    check_runtime("tensorrt", Servable("tensorrt", str(plan)), images(5))
