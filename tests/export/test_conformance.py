"""The built-in exporters and runtimes pass the conformance checks for third-party plugins."""

from __future__ import annotations

import numpy as np
import pytest

from distillkit.contracts.runtime import Servable
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import check_exporter, check_runtime


@pytest.mark.slow
def test_the_onnx_exporter():
    check_exporter("onnx")


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino"])
def test_runtimes_for_onnx_files(exported, name):
    availability = installed_plugins().find("runtime", name).create().availability()
    if not availability.works:
        pytest.skip(availability.detail)
    images = np.random.default_rng(1).normal(size=(5, 3, 40, 40)).astype(np.float32)
    check_runtime(name, Servable("onnx", str(exported["plain"].directory / "model.onnx")), images)
