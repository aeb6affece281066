"""Engines are built from the bundle's ONNX file with the given options; every failure is one sentence."""

from __future__ import annotations

import hashlib
import json
import stat

import pytest

from distillkit.contracts.exporter import ExportRequest, ExportSource
from distillkit.errors import GateError, UnavailableError
from distillkit_export.tensorrt.exporter import TensorRtExporter
from distillkit_export.tensorrt.trust import store


def exporter(**options):
    return TensorRtExporter(TensorRtExporter.Options(**options))


def values(double, name):
    return [given for called, given in double.calls if called == name]


def test_engine_is_built_from_the_file_and_described_by_its_card(double, build_in_subprocess, onnx_file, tmp_path):
    artifact = build_in_subprocess(onnx_file, batch="2:3:4", workspace="1G")
    name = f"double-1-sm89-trt{double.version}-fp32-b2x3x4"
    assert (artifact.format, artifact.file, artifact.precision) == ("tensorrt", f"trt/{name}.plan", "fp32")
    plan = tmp_path / artifact.file
    assert plan.read_bytes().endswith(onnx_file.read_bytes())
    card = json.loads((tmp_path / "trt" / f"{name}.json").read_text())
    assert card.pop("build_s") > 0
    assert card == {
        "schema_version": 1,
        "file": f"{name}.plan",
        "sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
        "bytes": plan.stat().st_size,
        "onnx_file": "model.onnx",
        "onnx_sha256": hashlib.sha256(onnx_file.read_bytes()).hexdigest(),
        "precision": "fp32",
        "network": {"fp32": 1},
        "layers": {"fp32": 1},
        "gpu": "NVIDIA Double 1",
        "compute_capability": "8.9",
        "tensorrt": double.version,
        "cuda": "13.1",
        "batch": [2, 3, 4],
        "workspace": 1 << 30,
        "hardware_compatible": False,
        "version_compatible": False,
        "optimization_level": 3,
        "tf32": False,
        "timing_cache": "new",
        "tensors": [
            {"name": "images", "mode": "input", "dtype": "float", "shape": [-1, 3, 4, 4]},
            {"name": "logits", "mode": "output", "dtype": "float", "shape": [-1, 3]},
        ],
    }
    assert sorted(path.name for path in plan.parent.iterdir()) == [f"{name}.json", f"{name}.plan"]


def test_network_is_strongly_typed_and_nothing_else_sets_the_precision(double, build, onnx_file, tmp_path):
    build(onnx_file, batch="2:3:4")
    import tensorrt as trt

    (network,) = values(double, "Builder.create_network")
    assert network == {"flags": str(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))}
    assert values(double, "IBuilderConfig.set_flag") == []
    assert values(double, "IBuilderConfig.clear_flag") == [{"flag": "BuilderFlag.TF32"}]
    assert values(double, "IBuilderConfig.set_memory_pool_limit") == []
    assert values(double, "IOptimizationProfile.set_shape") == [
        {"input": "images", "min": "(2, 3, 4, 4)", "opt": "(3, 3, 4, 4)", "max": "(4, 3, 4, 4)"}
    ]
    assert not {name for name, _ in double.calls if "calib" in name.lower() or "precision" in name.lower()}


def test_options_reach_the_builder(double, build, onnx_file, tmp_path):
    options = {"hardware_compatible": True, "version_compatible": True, "tf32": True, "optimization_level": 5}
    build(onnx_file, workspace="512M", **options)
    assert values(double, "IBuilderConfig.set_memory_pool_limit") == [
        {"pool": "MemoryPoolType.WORKSPACE", "pool_size": str(512 << 20)}
    ]
    assert values(double, "IBuilderConfig.hardware_compatibility_level=") == [
        {"value": "HardwareCompatibilityLevel.AMPERE_PLUS"}
    ]
    # The lean runtime would be host code inside the engine.
    assert values(double, "IBuilderConfig.set_flag") == [
        {"flag": "BuilderFlag.VERSION_COMPATIBLE"},
        {"flag": "BuilderFlag.EXCLUDE_LEAN_RUNTIME"},
    ]
    assert values(double, "IBuilderConfig.clear_flag") == []
    assert values(double, "IBuilderConfig.builder_optimization_level=") == [{"value": "5"}]


def test_version_compatible_engine_that_cannot_be_loaded_here_is_kept(double, build, onnx_file, tmp_path):
    double.set(TENSORRT_DOUBLE_FAILS="load")
    plan = tmp_path / build(onnx_file, version_compatible=True).file
    assert exporter().precision_of(plan) == "fp32"
    with pytest.raises(UnavailableError) as refusal:
        build(onnx_file)
    assert str(refusal.value) == (
        f"TensorRT {double.version} cannot load the engine that it just built: the lean runtime is missing"
    )


def test_layers_are_written_on_request(double, build, onnx_file, tmp_path):
    artifact = build(onnx_file, layers=True)
    report = json.loads((tmp_path / artifact.file).with_suffix(".layers.json").read_text())
    assert [layer["Name"] for layer in report["Layers"]] == ["Gemm_0"]


def test_progress_is_reported_phase_by_phase(double, build_in_subprocess, onnx_file, tmp_path):
    reported = []
    build_in_subprocess(onnx_file, progress=lambda *what: reported.append(what))
    assert reported == [
        ("Building Engine", 0, 3),
        ("Tactic Selection", 0, 3),
        ("Tactic Selection", 1, 3),
        ("Tactic Selection", 2, 3),
        ("Tactic Selection", 3, 3),
        ("Tactic Selection", 3, 3),
        ("Building Engine", 3, 3),
    ]


def timing(directory, artifact):
    return json.loads((directory / artifact.file).with_suffix(".json").read_text())["timing_cache"]


def test_timing_cache_is_kept_and_replaced_if_unusable(double, build, onnx_file, tmp_path):
    assert timing(tmp_path, build(onnx_file)) == "new"
    (cache,) = (tmp_path / "cache" / "distillkit" / "tensorrt").iterdir()
    assert cache.name == f"double-1-sm89-trt{double.version}.cache"
    assert cache.read_bytes() == f"cache of {double.version} and one build more".encode()
    assert timing(tmp_path, build(onnx_file)) == "reused"
    assert cache.read_bytes() == f"cache of {double.version} and one build more and one build more".encode()
    for unusable in (b"cache of 9.9.9", b"no cache at all"):
        cache.write_bytes(unusable)
        assert timing(tmp_path, build(onnx_file)) == "unusable"
        assert cache.read_bytes() == f"cache of {double.version} and one build more".encode()


def test_timing_cache_may_be_a_given_file(double, build, onnx_file, tmp_path):
    mine = tmp_path / "mine" / "here.cache"
    build(onnx_file, timing_cache=mine)
    assert mine.is_file()
    assert not (tmp_path / "cache" / "distillkit" / "tensorrt").exists()


def test_trust_is_recorded_where_only_this_user_can_write(double, build, onnx_file, tmp_path):
    artifact = build(onnx_file)
    digest = hashlib.sha256((tmp_path / artifact.file).read_bytes()).hexdigest()
    (note,) = store().iterdir()
    assert note.name == f"{digest}.json"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(store().stat().st_mode) == 0o700


FAILURES = {
    "parse": (
        "TensorRT {version} cannot read model.onnx: In node 3 (Sin7): UNSUPPORTED_NODE: no importer for operator Sin7"
    ),
    "build": "TensorRT {version} cannot build model.onnx: Could not find any implementation for node Gemm_0.",
    "crash": "the build of the TensorRT engine of model.onnx ended with signal SIGSEGV; its log is {log}",
    "hang": "the build of the TensorRT engine of model.onnx took longer than 1.5 s; its log is {log}",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_are_one_sentence_and_leave_no_engine_to_trust(
    failure, double, build_in_subprocess, onnx_file, tmp_path
):
    double.set(TENSORRT_DOUBLE_FAILS=failure)
    log = tmp_path / "cache" / "distillkit" / "tensorrt" / "build.log"
    with pytest.raises(UnavailableError) as refusal:
        build_in_subprocess(onnx_file, timeout_s=1.5 if failure == "hang" else 60)
    assert str(refusal.value) == FAILURES[failure].format(version=double.version, log=log)
    assert log.is_file() is ("{log}" in FAILURES[failure])
    assert not list((tmp_path / "trt").iterdir())
    assert not store().exists()


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((2, 3, 4, 4), "2 x 3 x 4 x 4"), (("batch", 3, "height", "width"), "? x 3 x ? x ?")],
    ids=["fixed batch", "any image size"],
)
def test_graph_without_dynamic_batch_or_fixed_size_is_refused(shape, shown, double, build, write_onnx):
    with pytest.raises(UnavailableError) as refusal:
        build(write_onnx(*shape))
    assert str(refusal.value) == (
        f"input 'images' has shape {shown}, but an engine needs a dynamic batch and a fixed image size; "
        "export the ONNX file that way"
    )


def test_precision_without_its_onnx_file_is_refused(double, build, onnx_file, tmp_path):
    with pytest.raises(UnavailableError) as refusal:
        exporter().write(ExportSource(ExportRequest(), onnx={"fp32": onnx_file}), tmp_path, "fp16")
    assert str(refusal.value) == (
        "there is no ONNX file in fp16 to build the engine from; export the run again with --fp16"
    )


@pytest.mark.parametrize(
    ("reported_format", "precision"),
    [
        ("Row major linear FP32 format", "fp32"),
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("BFloat16", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("FP8", "fp8"),
    ],
)
def test_precision_is_read_from_the_engine(reported_format, precision, double, build, onnx_file, tmp_path):
    double.set(TENSORRT_DOUBLE_FORMAT=reported_format, TENSORRT_DOUBLE_TYPE="INT8" if precision == "int8" else "FLOAT")
    artifact = build(onnx_file)
    assert exporter().precision_of(tmp_path / artifact.file) == precision


def test_int64_reported_as_int8_does_not_make_an_int8_engine(double, build, onnx_file, tmp_path):
    double.set(TENSORRT_DOUBLE_FORMAT="Row major linear INT8 format (kLINEAR)")
    artifact = build(onnx_file)
    assert exporter().precision_of(tmp_path / artifact.file) == "fp32"


def test_precision_of_an_engine_without_report_is_that_of_its_network(double, build, onnx_file, tmp_path):
    double.set(TENSORRT_DOUBLE_FAILS="inspector", TENSORRT_DOUBLE_TYPE="BF16")
    artifact = build(onnx_file)
    card = json.loads((tmp_path / artifact.file).with_suffix(".json").read_text())
    assert (card["network"], card["layers"]) == ({"bf16": 1}, {})
    assert exporter().precision_of(tmp_path / artifact.file) == "bf16"


def test_unknown_precision_is_an_error(double, build, onnx_file, tmp_path):
    double.set(TENSORRT_DOUBLE_FAILS="inspector", TENSORRT_DOUBLE_TYPE="INT64")
    artifact = build(onnx_file)
    plan = tmp_path / artifact.file
    with pytest.raises(GateError) as refusal:
        exporter().precision_of(plan)
    assert str(refusal.value) == f"engine {plan.name} does not report the precision of its layers"


def test_without_tensorrt_nothing_is_written(build_in_subprocess, onnx_file, tmp_path):
    for call in (exporter().check, lambda: build_in_subprocess(onnx_file)):
        with pytest.raises(UnavailableError) as refusal:
            call()
        assert str(refusal.value) == 'TensorRT is not installed; pip install "distillkit[trt]"'
    assert exporter().runtime == "tensorrt"
    assert not (tmp_path / "trt").exists()
