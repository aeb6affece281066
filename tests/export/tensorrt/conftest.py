"""Fixtures that replace TensorRT by its double, in this process and in subprocesses."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from distillkit.contracts.exporter import ExportRequest, ExportSource
from distillkit_export.tensorrt import build_engine
from distillkit_export.tensorrt.exporter import TensorRtExporter

HERE = Path(__file__).parent
MAJORS = (10, 11)
REPLACED = ("tensorrt", "cuda", "distillkit_export.tensorrt.building", "distillkit_export.tensorrt.running")


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    """Trust and caches separate for each test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DISTILLKIT_TRUST_ENGINE", raising=False)


@pytest.fixture
def fresh_imports():
    """TensorRT and CUDA are imported again; the previous modules are restored afterwards."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_replaced(name)}
    yield
    for name in [name for name in sys.modules if _is_replaced(name)]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture(params=MAJORS, ids=["tensorrt 10", "tensorrt 11"])
def double(request, monkeypatch, fresh_imports, tmp_path):
    """A machine with a GPU and TensorRT of one major version; `calls` lists the calls of TensorRT."""
    return Double(request.param, monkeypatch, tmp_path)


class Double:
    def __init__(self, major, monkeypatch, tmp_path):
        self.major, self.monkeypatch, self.log = major, monkeypatch, tmp_path / "calls"
        self.version = json.loads((HERE / f"api-{major}.json").read_text())["version"]
        monkeypatch.syspath_prepend(HERE / "double")
        monkeypatch.setenv("TENSORRT_DOUBLE", str(HERE / f"api-{major}.json"))
        monkeypatch.setenv("TENSORRT_DOUBLE_LOG", str(self.log))

    def set(self, **variables):
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    @property
    def calls(self):
        return [(name, given) for name, given in map(json.loads, self.log.read_text().splitlines())]


def _is_replaced(name):
    return any(name == root or name.startswith(f"{root}.") for root in REPLACED)


def linear(shape, *, half):
    """A graph from images to three scores: the sum of the pixels, twice the first pixel, and one."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    pixels = 1
    for size in shape[1:]:
        pixels *= size if isinstance(size, int) else 16
    weights = [[1.0, 2.0 * (pixel == 0), 0.0] for pixel in range(pixels)]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("logits", kind, [shape[0], 3])],
        [
            helper.make_tensor("weights", kind, [pixels, 3], [weight for row in weights for weight in row]),
            helper.make_tensor("bias", kind, [3], [0.0, 0.0, 1.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def write_onnx(tmp_path):
    """Write a model of a given input shape and type."""

    def write(*shape, half=False):
        path = tmp_path / "model.onnx"
        onnx.save_model(linear(shape or ("batch", 3, 4, 4), half=half), path)
        return path

    return write


@pytest.fixture
def onnx_file(write_onnx):
    return write_onnx()


@pytest.fixture
def build_in_subprocess(tmp_path):
    """Build an engine into the test's folder in a subprocess; returns its artifact."""

    def built(onnx_path, precision="fp32", progress=None, **options):
        source = ExportSource(ExportRequest(), onnx={precision: onnx_path}, progress=progress)
        return TensorRtExporter(TensorRtExporter.Options(**options)).write(source, tmp_path, precision)

    return built


@pytest.fixture
def build(build_in_subprocess, double, monkeypatch):
    """As `build_in_subprocess`, but in this process, which is faster."""
    importlib.import_module("tensorrt")  # makes find_platform probe in this process too

    def run(module, request, *, timeout_s, on_event):
        return json.loads(json.dumps(build_engine.work(json.loads(json.dumps(request)), on_event)))

    monkeypatch.setattr(build_engine, "result_of", run)
    return build_in_subprocess
