"""The real TensorRT on a GPU, for what the double cannot test. `make gpu` runs these; without TensorRT they skip."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from distillkit.contracts.exporter import ExportRequest, ExportSource
from distillkit.contracts.runtime import Servable
from distillkit.plugin.registry import installed_plugins
from distillkit_export.doctor.diagnosis import diagnose
from distillkit_export.from_torch.graph import torch_scorer
from distillkit_export.onnx.exporter import OnnxExporter
from distillkit_export.tensorrt.exporter import TensorRtExporter
from distillkit_export.tensorrt.preflight import Missing, find_platform
from distillkit_export.tensorrt.runtime import TensorRt

pytestmark = pytest.mark.gpu

LARGEST_RELATIVE_DIFFERENCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}


@pytest.fixture(scope="module", autouse=True)
def platform():
    found = find_platform()
    if isinstance(found, Missing):
        pytest.skip(f"{found.reason}; {found.remedy}")
    return found


@pytest.fixture
def engine(distilled, tmp_path):
    """Build the engine of a small DeiT with two heads; returns its file, its exporter and the scores' reference."""

    def built(precision="fp32", **options):
        request = ExportRequest(opset=OPSETS[precision])
        images = random_images(distilled, 8)
        files = {}
        for each in dict.fromkeys(["fp32", precision]):
            source = ExportSource(request, distilled, onnx=files, images=images, images_from="random")
            files[each] = tmp_path / OnnxExporter(OnnxExporter.Options()).write(source, tmp_path, each).file
        exporter = TensorRtExporter(TensorRtExporter.Options(**{"batch": "1:2:8", "workspace": "1G", **options}))
        exporter.check()
        file = tmp_path / exporter.write(ExportSource(request, onnx=files), tmp_path, precision).file
        return file, exporter, torch_scorer(distilled, request)

    return built


def random_images(model, count):
    return np.random.default_rng(count).standard_normal((count, 3, *model.spec.image_size)).astype(np.float32)


def relative(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def card(file):
    return json.loads(file.with_suffix(".json").read_text())


def session(file, **setting):
    return TensorRt().open(Servable("tensorrt", str(file)), setting)


@pytest.mark.parametrize("precision", LARGEST_RELATIVE_DIFFERENCE)
def test_engine_scores_as_torch_does_in_the_requested_precision(precision, engine, distilled, capsys):
    file, exporter, reference = engine(precision)
    scores = exporter.open(file)
    for batch in (1, 2, 7, 8, 19):
        images = random_images(distilled, batch)
        difference = relative(scores(images), reference(images))
        assert difference <= LARGEST_RELATIVE_DIFFERENCE[precision], f"batch {batch} differs by {difference:.2g}"
    assert card(file)["network"], "the types of the network can be read"
    assert exporter.precision_of(file) == precision
    assert card(file)["layers"], "the engine's inspector reports types as layers.py expects"


def test_cuda_graph_is_captured_and_gives_the_same_scores(engine, distilled):
    file, _, reference = engine()
    loaded, images = session(file, cuda_graph=True), random_images(distilled, 8)
    bound = loaded.bind(images)
    times = bound.time(20)
    assert loaded.facts["cuda_graph"] is True, loaded.facts.get("no_cuda_graph")
    assert len(times) == 20
    assert min(times) > 0
    assert relative(bound._batch.scores(), reference(images)) <= LARGEST_RELATIVE_DIFFERENCE["fp32"]
    other = loaded.bind(images[:3])
    other.time(2)
    bound.time(2)
    assert relative(bound._batch.scores(), reference(images)) <= LARGEST_RELATIVE_DIFFERENCE["fp32"]
    assert loaded.device_bytes() > 0


def test_timing_cache_is_reused(engine, tmp_path):
    cache = tmp_path / "timing.cache"
    first, _, _ = engine(timing_cache=cache)
    assert card(first)["timing_cache"] == "new"
    assert cache.stat().st_size > 0
    again, _, _ = engine(timing_cache=cache)
    assert card(again)["timing_cache"] == "reused"
    session(again)
    cache.write_bytes(b"not a timing cache")
    invalid, _, _ = engine(timing_cache=cache)
    assert card(invalid)["timing_cache"] == "unusable"


def test_progress_is_reported_and_layers_are_written(engine, distilled, tmp_path):
    file, exporter, _ = engine(layers=True)
    assert json.loads(file.with_suffix(".layers.json").read_text())["Layers"]
    reported = []
    source = ExportSource(
        ExportRequest(), onnx={"fp32": tmp_path / "model.onnx"}, progress=lambda *what: reported.append(what)
    )
    exporter.write(source, tmp_path, "fp32")
    assert {done for _, done, _ in reported} > {0}


@pytest.mark.parametrize("option", ["hardware_compatible", "version_compatible", "tf32"])
def test_builder_accepts_the_options(option, engine):
    file, _, _ = engine(**{option: True})
    assert card(file)[option] is True


def test_without_a_visible_gpu_nothing_crashes(platform):
    """TensorRT's objects crash the process there; the check must avoid creating any."""
    code = "from distillkit_export.tensorrt.preflight import find_platform; print(find_platform().reason)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CUDA finds no usable GPU")


def test_doctor_runs_an_engine():
    found = {report.name: report for report in diagnose(OnlyTensorRt()).runtimes}
    assert found["tensorrt"].verdict == "runs", found["tensorrt"].explanation


class OnlyTensorRt:
    broken = ()

    def listing(self, role):
        return [plugin for plugin in installed_plugins().listing(role) if plugin.spec.name == "tensorrt"]


def test_torch_and_tensorrt_share_the_gpu(engine, distilled):
    """Both in one process, as in the gate of an export."""
    file, _, reference = engine()
    network = distilled.network.to("cuda")
    try:
        network(torch.zeros(1, 3, *distilled.spec.image_size, device="cuda"))
        images = random_images(distilled, 2)
        scores = session(file)(images)
    finally:
        distilled.network.to("cpu")
    assert relative(scores, reference(images)) <= LARGEST_RELATIVE_DIFFERENCE["fp32"]
