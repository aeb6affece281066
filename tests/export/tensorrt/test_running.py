"""Engines give the scores of their ONNX file, are timed with and without CUDA graphs, and only trusted ones load."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from distillkit.contracts.runtime import Servable
from distillkit.errors import GateError, UnavailableError
from distillkit_export.tensorrt.runtime import TensorRt
from distillkit_export.tensorrt.trust import VARIABLE, store


@pytest.fixture
def engine(double, build, onnx_file, tmp_path):
    """An engine for batches of two to four, and the machine that built it."""
    plan = tmp_path / build(onnx_file, batch="2:3:4").file
    double.plan = plan
    return double


def session(plan, **setting):
    return TensorRt().open(Servable("tensorrt", str(plan)), setting)


def images(count):
    return np.random.default_rng(count).standard_normal((count, 3, 4, 4)).astype(np.float32)


def expected(batch):
    """The scores of the test's model: the sum of the pixels, twice the first pixel, one."""
    return np.stack([batch.sum((1, 2, 3)), 2 * batch[:, 0, 0, 0], np.ones(len(batch))], axis=1)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 11], ids="{} images".format)
def test_any_number_of_images_is_scored(count, engine):
    scores = session(engine.plan)(images(count))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected(images(count)), atol=1e-5)


def test_half_precision_engine_returns_float32(double, build, write_onnx, tmp_path):
    plan = tmp_path / build(write_onnx(half=True), "fp16", batch="1").file
    scores = session(plan)(images(2))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected(images(2)), atol=2e-2)


def test_facts_are_those_of_the_engine(engine):
    assert session(engine.plan, cuda_graph=False).facts == {
        "device": "cuda:0",
        "clock": "device",
        "provider": f"tensorrt {engine.version}",
        "gpu": "NVIDIA Double 1",
        "precision": "fp32",
        "layers": {"fp32": 1},
        "batch": "2:3:4",
        "scratch_bytes": 4096,
        "cuda_graph": False,
        "no_cuda_graph": "not requested",
    }


def runs(engine):
    return sum(name == "IExecutionContext.execute_async_v3" for name, _ in engine.calls)


def test_timing_launches_a_graph_that_was_captured_once(engine):
    loaded = session(engine.plan)
    bound = loaded.bind(images(3))
    before = runs(engine)
    assert len(bound.time(5)) == 5
    assert runs(engine) - before == 2  # one plain run, one to be captured
    assert all(milliseconds >= 0 for milliseconds in bound.time(7))
    assert runs(engine) - before == 2
    assert loaded.facts["cuda_graph"] is True
    assert "no_cuda_graph" not in loaded.facts


def test_timing_without_a_graph_runs_every_query(engine):
    bound = session(engine.plan, cuda_graph=False).bind(images(3))
    before = runs(engine)
    assert len(bound.time(5)) == 5
    assert runs(engine) - before == 6


def test_failed_capture_falls_back_to_plain_runs_and_is_reported(engine):
    engine.set(CUDA_DOUBLE_FAILS="graph")
    loaded = session(engine.plan)
    assert len(loaded.bind(images(3)).time(5)) == 5
    assert loaded.facts["cuda_graph"] is False
    assert loaded.facts["no_cuda_graph"] == "CUDA error: not supported (cudaErrorStreamCaptureUnsupported)"


def test_bound_batches_and_calls_do_not_disturb_each_other(engine):
    loaded = session(engine.plan)
    two, four = loaded.bind(images(2)), loaded.bind(images(4))
    for bound in (two, four, two):
        bound.time(2)
        np.testing.assert_allclose(loaded(images(5)), expected(images(5)), atol=1e-5)
    for bound, count in ((two, 2), (four, 4)):
        bound.time(1)
        np.testing.assert_allclose(bound._batch.scores(), expected(images(count)), atol=1e-5)


def test_memory_is_freed(engine):
    loaded = session(engine.plan)
    from cuda.bindings import runtime

    loaded.bind(images(2)).time(1)
    loaded(images(3))
    assert len(runtime.living) == 4
    pixels, scores = 3 * 3 * 4 * 4, 3 * 3
    assert loaded.device_bytes() == 4 * (pixels + scores)
    del loaded
    assert runtime.living == {}


@pytest.mark.parametrize(("count", "profile"), [(1, "1:3:4"), (9, "2:3:9")])
def test_batch_outside_the_profile_cannot_be_timed(count, profile, engine):
    with pytest.raises(UnavailableError) as refusal:
        session(engine.plan).bind(images(count))
    assert str(refusal.value) == (
        f"the engine accepts batches of 2 to 4, not {count}; build one with --batch {profile}"
    )


def test_images_of_another_size_are_refused(engine):
    with pytest.raises(GateError) as refusal:
        session(engine.plan)(np.zeros((2, 3, 5, 4), np.float32))
    assert str(refusal.value) == "the engine expects images 3 x 4 x 4, not 3 x 5 x 4"


def test_failed_run_is_a_sentence(engine):
    engine.set(TENSORRT_DOUBLE_FAILS="run")
    with pytest.raises(GateError) as refusal:
        session(engine.plan)(images(2))
    assert str(refusal.value) == (
        f"engine {engine.plan.name} cannot run: Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
    )


def test_engine_of_another_machine_is_not_loaded(engine):
    digest = hashlib.sha256(engine.plan.read_bytes()).hexdigest()
    (store() / f"{digest}.json").unlink()
    with pytest.raises(UnavailableError) as refusal:
        session(engine.plan)
    assert str(refusal.value) == (
        f"engine {engine.plan.name} was not built on this machine, and loading an engine runs its code; build your own "
        f"with distillkit export BUNDLE --trt --force, or, if you know who built it, set {VARIABLE}={digest}"
    )
    loaded = [name for name, _ in engine.calls].count("Runtime.deserialize_cuda_engine")
    assert loaded == 1  # that of the build
    engine.set(**{VARIABLE: f"{'0' * 64}, {digest}"})
    session(engine.plan)


def test_engine_that_was_changed_is_not_loaded(engine):
    engine.plan.write_bytes(engine.plan.read_bytes() + b"\0")
    with pytest.raises(UnavailableError, match="was not built on this machine"):
        session(engine.plan)


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_trust_that_other_users_could_have_written_is_refused(mode, engine):
    (note,) = store().iterdir()
    note.chmod(mode)
    with pytest.raises(UnavailableError) as refusal:
        session(engine.plan)
    assert str(refusal.value) == (
        f"{note} is accessible to other users, so it does not prove who built the engine; remove it and build the "
        "engine again"
    )


def changed_card(plan, **changes):
    card = plan.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


MISMATCHES = {
    "GPU": ({"gpu": "NVIDIA H200"}, "GPU NVIDIA H200, not NVIDIA Double 1"),
    "capability": ({"compute_capability": "9.0"}, "compute capability 9.0, not 8.9"),
    "TensorRT": ({"tensorrt": "10.3.0"}, "TensorRT 10.3.0, not {version}"),
    "both": (
        {"gpu": "NVIDIA H200", "compute_capability": "9.0"},
        "GPU NVIDIA H200, not NVIDIA Double 1; compute capability 9.0, not 8.9",
    ),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_engine_of_another_platform_is_not_loaded(kind, engine):
    changes, differs = MISMATCHES[kind]
    changed_card(engine.plan, **changes)
    with pytest.raises(UnavailableError) as refusal:
        session(engine.plan)
    assert str(refusal.value) == (
        f"engine {engine.plan.name} was built for {differs.format(version=engine.version)}; build one for this "
        "machine: distillkit export BUNDLE --trt --force"
    )


def test_compatible_engines_match_more(engine):
    changed_card(engine.plan, gpu="NVIDIA A100", compute_capability="8.0", hardware_compatible=True)
    session(engine.plan)
    changed_card(engine.plan, tensorrt=f"{engine.major}.1.0", version_compatible=True)
    session(engine.plan)
    changed_card(engine.plan, tensorrt=f"{engine.major}.99.0")
    with pytest.raises(UnavailableError, match=rf"TensorRT {engine.major}.99.0, not"):
        session(engine.plan)


def test_engine_without_its_card_is_refused(engine):
    engine.plan.with_suffix(".json").unlink()
    with pytest.raises(GateError) as refusal:
        session(engine.plan)
    assert str(refusal.value) == (
        f"engine {engine.plan.name} has no {engine.plan.with_suffix('.json').name}, which describes what it "
        "was built for"
    )


@pytest.mark.parametrize(
    "changes",
    [{"gpu": "\x1b[2J"}, {"batch": [1, 2]}, {"more": 1}, {"schema_version": 2}],
    ids=lambda given: next(iter(given)),
)
def test_invalid_card_is_refused(changes, engine):
    changed_card(engine.plan, **changes)
    with pytest.raises(GateError) as refusal:
        session(engine.plan)
    card = engine.plan.with_suffix(".json").name
    assert str(refusal.value) == f"{card} is not a valid engine card; build the engine again"


def test_engine_that_tensorrt_refuses_is_a_sentence(engine):
    engine.monkeypatch.setattr("tensorrt.__version__", f"{engine.major}.99.0")
    changed_card(engine.plan, tensorrt=f"{engine.major}.99.0")
    with pytest.raises(UnavailableError) as refusal:
        session(engine.plan)
    assert str(refusal.value) == (
        f"TensorRT {engine.major}.99.0 cannot load {engine.plan.name}: The engine plan file is not compatible with "
        "this version of TensorRT."
    )


def test_other_formats_are_refused(double):
    with pytest.raises(UnavailableError) as refusal:
        TensorRt().open(Servable("onnx", "model.onnx"), {})
    assert str(refusal.value) == "tensorrt loads tensorrt, not onnx"
