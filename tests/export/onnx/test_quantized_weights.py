"""Weights of INT8 and FP8 files: stored in 8 bits, with the outputs of the float32 form, and gated as stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from distillkit.errors import RecipeError
from distillkit.models.timm_model import TimmModel
from distillkit_export.export_options import ExportOptions
from distillkit_export.gate.report import notes
from distillkit_export.images.gate_images import photographs
from distillkit_export.onnx import quantized_weights
from distillkit_export.onnx.quantized_weights import fold_weights
from distillkit_export.pipeline.export import export_onnx

KINDS = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
NOTE = "stores its weights as float32 behind Q/DQ pairs, so it is no smaller than model.onnx"


def outputs(model, images, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def pairs(weight, scale, kind, axis, count=1):
    """A graph that adds its input to `count` quantised copies of the weight."""
    zero = helper.make_tensor("zero", kind, scale.shape, np.zeros(scale.size).tolist())
    nodes, total = [], "x"
    for index in range(count):
        q, d, y = f"q{index}", f"d{index}", f"y{index}"
        nodes += [
            helper.make_node("QuantizeLinear", ["weight", "scale", "zero"], [q], axis=axis),
            helper.make_node("DequantizeLinear", [q, "scale", "zero"], [d], axis=axis),
            helper.make_node("Add", [total, d], [y]),
        ]
        total = y
    entries = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(scale, "scale"), zero]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1]), (total, weight.shape))
    ]
    graph = helper.make_graph(nodes, "pairs", ends[:1], ends[1:], entries)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1], ids=["per tensor", "rows", "columns", "last"])
def test_folding_rounds_and_saturates_as_onnx_runtime_does(kind, axis):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    weight[:8] = np.arange(-256, 256, dtype=np.float32).reshape(8, 64) / 2  # halves, which round to even
    weight[8] = 0
    weight[9, :6] = [1e-40, -1e-45, 1e30, -5e4, np.inf, -np.inf]
    scale = np.float32(1) if axis is None else rng.uniform(0.01, 1, 64).astype(np.float32)
    model = pairs(weight, np.asarray(scale), kind, axis or 0)
    x = np.zeros(1, np.float32)
    (expected,) = outputs(model, x)
    assert fold_weights(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert {entry.name: entry.data_type for entry in model.graph.initializer} == {
        "scale": TensorProto.FLOAT,
        "zero": kind,
        "q0": kind,
    }
    (found,) = outputs(model, x)
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def test_weight_shared_by_two_pairs_is_folded_for_both():
    weight, scale = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), np.asarray(np.float32(0.01))
    model = pairs(weight, scale, TensorProto.INT8, 0, count=2)
    expected = outputs(model, np.ones(1, np.float32))
    assert fold_weights(model) == 2
    assert sorted(entry.name for entry in model.graph.initializer) == ["q0", "q1", "scale", "zero"]
    np.testing.assert_array_equal(outputs(model, np.ones(1, np.float32)), expected)


def test_weight_that_a_float_layer_also_reads_stays():
    model = pairs(np.ones((2, 2), np.float32), np.asarray(np.float32(0.01)), TensorProto.INT8, 0)
    model.graph.node.append(helper.make_node("Identity", ["weight"], ["also"]))
    model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, [2, 2]))
    expected = outputs(model, np.ones(1, np.float32))
    fold_weights(model)
    assert "weight" in {entry.name for entry in model.graph.initializer}
    for found, wanted in zip(outputs(model, np.ones(1, np.float32)), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.fixture(scope="module")
def students(plain):
    """A ViT, and a CNN whose convolutions are quantised, with enough weights to see their size in the file."""
    torch.manual_seed(0)  # with some weights FP8 fails the gate, and its file is in rejected/
    cnn = TimmModel.create("resnet10t", name="student", classes=7, image_size=(32, 32)).eval()
    return {"vit": plain, "cnn": cnn}


@pytest.fixture(scope="module")
def both_forms(students, tmp_path_factory):
    """Exports with the weights in 8 bits and in float32, and the images, by student."""
    found = {}
    for name, student in students.items():
        pixels, folder = photographs(student.spec, "x").pixels[:16], tmp_path_factory.mktemp(name)
        found[name] = (
            pixels,
            *(
                export_onnx(
                    student,
                    folder / str(float_weights),
                    images=pixels,
                    options=ExportOptions(int8=True, fp8=True, float_weights=float_weights),
                )
                for float_weights in (False, True)
            ),
        )
    return found


def written(result, name):
    """A file of an export, also one that the gate rejected: a CPU without 8-bit products saturates some of its sums."""
    kept = result.directory / name
    return kept if kept.exists() else result.directory / "rejected" / name


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("student", ["vit", "cnn"])
def test_both_forms_are_bit_equal_in_onnx_runtime(both_forms, student, precision):
    pixels, *results = both_forms[student]
    stored, in_float = (onnx.load(written(each, f"model.{precision}.onnx")) for each in results)
    # ONNX Runtime's optimiser has no FP8 kernels on the CPU.
    for level in ("ORT_DISABLE_ALL", *(["ORT_ENABLE_ALL"] if precision == "int8" else [])):
        np.testing.assert_array_equal(outputs(stored, pixels, level), outputs(in_float, pixels, level))


@pytest.mark.parametrize("precision", KINDS)
def test_8_bit_file_is_a_third_of_float32_or_less(both_forms, precision):
    _, stored, in_float = both_forms["cnn"]
    (small, first), (large, _) = (
        [written(each, name).stat().st_size for name in (f"model.{precision}.onnx", "model.onnx")]
        for each in (stored, in_float)
    )
    assert small < 0.33 * first
    assert large > first


def test_manifest_and_notes_say_how_weights_are_stored(both_forms):
    _, stored, in_float = both_forms["vit"]
    weights = [
        {card["precision"]: card["made_with"].get("weights") for card in each.manifest["artifacts"]}
        for each in (stored, in_float)
    ]
    assert weights == [
        {"fp32": None, "int8": "int8", "fp8": "fp8"},
        {"fp32": None, "int8": "fp32", "fp8": "fp32"},
    ]
    assert not any(NOTE in line for line in stored.lines())
    assert [line for line in in_float.lines() if NOTE in line] == [f"model.{kind}.onnx {NOTE}" for kind in KINDS]


def test_file_of_a_version_before_the_option_is_said_to_have_float32_weights(both_forms):
    _, stored, _ = both_forms["vit"]
    int8 = stored.verdicts[1]
    made_with = {key: value for key, value in int8.artifact.made_with.items() if key != "weights"}
    earlier = replace(int8, artifact=replace(int8.artifact, made_with=made_with))
    assert f"model.int8.onnx {NOTE}" in notes([earlier], stored.reference)


def test_weights_that_are_all_zero_stay_zero(both_forms):
    """ResNets start with the last batch norm of each block at zero, which the export folds into its convolution."""
    _, stored, _ = both_forms["cnn"]
    zeros = {}
    for name in ("model.onnx", *(f"model.{precision}.onnx" for precision in KINDS)):
        entries = onnx.load(written(stored, name)).graph.initializer
        arrays = [numpy_helper.to_array(entry) for entry in entries if len(entry.dims) == 4]
        zeros[name] = sum(not array.astype(np.float32).any() for array in arrays)
    assert set(zeros.values()) == {4}
    assert next(check.passed for check in stored.verdicts[2].checks if check.name == "emulation in float32")


def test_invalid_setting_of_a_model_in_memory_is_refused(plain, tmp_path):
    options = ExportOptions(int8=True, settings={"onnx": {"float_weight": True}})
    with pytest.raises(RecipeError) as error:
        export_onnx(plain, tmp_path / "bundle", options=options)
    assert str(error.value) == "exporter 'onnx': unknown key 'float_weight'; did you mean 'float_weights'?"


def test_gate_runs_on_the_stored_weights(plain, tmp_path, monkeypatch):
    def half_of_it(weight, scale, zero):
        return rounded(weight / 2, scale, zero)

    rounded = quantized_weights._rounded
    monkeypatch.setattr(quantized_weights, "_rounded", half_of_it)
    pixels = photographs(plain.spec, "x").pixels[:16]
    result = export_onnx(plain, tmp_path / "bundle", images=pixels, options=ExportOptions(int8=True))
    assert [(each.artifact.precision, each.outcome) for each in result.verdicts[:2]] == [
        ("fp32", "passed"),
        ("int8", "failed"),
    ]
