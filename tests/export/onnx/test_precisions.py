"""Every precision of one export: what is in the files, what the report says, and what the manifest records."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import Signal
from distillkit.errors import UnavailableError, UserError
from distillkit.models.timm_model import TimmModel
from distillkit_export.export_options import ExportOptions
from distillkit_export.gate.samples import SAMPLES
from distillkit_export.images.gate_images import ExportImages, ImageSet, photographs
from distillkit_export.onnx.exporter import OnnxExporter
from distillkit_export.onnx_scan.precision import precision_of
from distillkit_export.pipeline.export import export_model, export_onnx
from distillkit_export.pipeline.formats import Format
from distillkit_export.pipeline.target import ExportTarget

FILES = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.onnx",
    "fp8": "model.fp8.onnx",
}
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="session")
def every(plain, tmp_path_factory):
    """A ViT in every precision."""
    pixels = photographs(plain.spec, "x").pixels
    folder = tmp_path_factory.mktemp("precisions") / "bundle"
    options = ExportOptions(fp16=True, bf16=True, int8=True, fp8=True)
    return export_onnx(plain, folder, ExportRequest(opset=22), pixels, options)


def load(result, precision):
    return onnx.load(result.directory / FILES[precision])


def verdict(result, precision):
    return next(each for each in result.verdicts if each.artifact.precision == precision)


@pytest.mark.parametrize("precision", FILES)
def test_precision_is_read_from_the_file(every, precision):
    assert precision_of(every.directory / FILES[precision]) == precision


@pytest.mark.parametrize("precision", FILES)
def test_every_file_takes_and_gives_float32_with_a_dynamic_batch(every, precision):
    graph = load(every, precision).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("precision", HALVES)
def test_half_precision_halves_the_file(every, precision):
    sizes = [(every.directory / FILES[name]).stat().st_size for name in ("fp32", precision)]
    assert 0.5 < sizes[1] / sizes[0] < 0.6
    weights = {entry.data_type for entry in load(every, precision).graph.initializer if np.prod(entry.dims) > 100}
    assert weights == {HALVES[precision]}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_graphs_fit_tensorrts_parser(every, precision):
    """Symmetric ranges, 8-bit weights behind DequantizeLinear, no quantised bias; head and patch embedding in float."""
    graph = load(every, precision).graph
    values = {entry.name: entry for entry in graph.initializer}
    written = {output: node for node in graph.node for output in node.output}
    points = [node.input[2] for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert points
    assert not any(numpy_helper.to_array(values[name]).astype(np.float32).any() for name in points)
    assert not any(entry.data_type == TensorProto.INT32 for entry in graph.initializer)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    behind_pairs = [
        node for node in products if all(written[name].op_type == "DequantizeLinear" for name in node.input)
    ]
    # Per block: query-key-value, projection and the two of the MLP; the two products of activations stay in float.
    assert (len(behind_pairs), len(products)) == (4, 6)
    for node in behind_pairs:
        assert written[written[node.input[0]].input[0]].op_type == "QuantizeLinear"
        weight = values[written[node.input[1]].input[0]]
        assert weight.data_type == {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}[precision]
    assert {node.op_type for node in graph.node if node.op_type in {"Conv", "Gemm"}} == {"Conv", "Gemm"}


def test_int8_weights_have_a_scale_per_channel(every):
    graph = load(every, "int8").graph
    values = {entry.name: entry for entry in graph.initializer}
    scales = [
        (list(values[node.input[0]].dims), list(values[node.input[1]].dims))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values
    ]
    assert len(scales) == 4
    assert all(scale == [weight[1]] for weight, scale in scales)


def test_fp8_scales_put_the_largest_value_on_448(every):
    graph = load(every, "fp8").graph
    values = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    assert len(weights) == 4
    for node in weights:
        assert np.abs(values[node.input[0]].astype(np.float32)).max() == 448


def test_precisions_that_run_here_pass_and_the_others_are_ungated(every):
    assert {each.artifact.precision: each.outcome for each in every.verdicts} == {
        "fp32": "passed",
        "fp16": "passed",
        "bf16": "ungated",
        "int8": "passed",
        "fp8": "ungated",
    }
    assert verdict(every, "fp16").parity.overall.sqnr_db > 50
    assert verdict(every, "int8").parity.overall.sqnr_db > 20


def test_precisions_that_do_not_run_here_are_still_checked(every):
    found = {precision: {check.name: check.passed for check in verdict(every, precision).checks} for precision in FILES}
    assert found == {
        "fp32": {},
        "fp16": {"structure": True, "range scan": True, "torch forward in fp16": True},
        "bf16": {"structure": True, "torch forward in bf16": True},
        "int8": {"structure": True},
        "fp8": {"structure": True, "emulation in float32": True},
    }


def test_ungated_files_end_in_a_sentence_with_the_command_for_the_target(every):
    with pytest.raises(UnavailableError) as error:
        every.require()
    assert error.value.exit_code == 3
    assert str(error.value) == (
        "model.bf16.onnx was not gated: CPUExecutionProvider cannot execute it: Could not find an implementation for "
        "Conv(22) node with name 'patch_embed.proj/Conv'; model.fp8.onnx was not gated: CPUExecutionProvider cannot "
        "execute it: Failed to find kernel for QLinearMatMul(21) (node:'blocks.0.attn.qkv/MatMul' "
        f"ep:'CPUExecutionProvider'); on a machine that executes it run: distillkit verify {every.directory}"
    )


def test_manifest_says_how_each_file_was_made(every):
    cards = {card["precision"]: card for card in every.manifest["artifacts"]}
    assert {precision: card["file"] for precision, card in cards.items()} == FILES
    assert {precision: card["gate"] for precision, card in cards.items()} == {
        each.artifact.precision: each.outcome for each in every.verdicts
    }
    assert cards["bf16"]["runtime"] is None
    assert cards["bf16"]["reason"].startswith("was not gated: ")
    made = cards["int8"]["made_with"]
    assert (made["calibrator"], made["images"], made["images_from"]) == ("minmax", 54, "given by the caller")
    assert made["quantized"] == [
        "blocks.0.attn.qkv/MatMul",
        "blocks.0.attn.proj/MatMul",
        "blocks.0.mlp.fc1/MatMul",
        "blocks.0.mlp.fc2/MatMul",
    ]
    assert cards["fp16"]["made_with"]["float32"] == []


def test_report_compares_all_precisions(every):
    report = json.loads((every.directory / "parity.json").read_text())["files"]
    assert list(report) == list(FILES.values())
    assert report["model.onnx"]["relative_latency"] == 1.0
    assert report["model.int8.onnx"]["relative_latency"] > 0
    assert report["model.fp8.onnx"]["relative_latency"] is None
    page = (every.directory / "parity.md").read_text()
    assert "| model.bf16.onnx | " in page
    assert "| int8 | - | 20 | 0.98 | 0.95 | 1 |" in page


def test_samples_are_gate_images_with_the_models_outputs(every, plain):
    with np.load(every.directory / SAMPLES, allow_pickle=False) as stored:
        images, answers, labels = stored["images"], stored["answers"], stored["labels"]
    assert (len(images), answers.shape, labels.tolist()) == (48, (48, 7), [-1] * 48)
    import torch

    with torch.inference_mode():
        expected = plain.network.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5)


def test_int8_export_reports_float16_too(plain, tmp_path):
    pixels = photographs(plain.spec, "x").pixels
    result = export_onnx(plain, tmp_path / "bundle", images=pixels, options=ExportOptions(int8=True))
    assert [(each.artifact.precision, each.kept) for each in result.verdicts] == [
        ("fp32", True),
        ("int8", True),
        ("fp16", False),
    ]
    assert sorted(file.name for file in result.directory.iterdir() if file.suffix == ".onnx") == [
        "model.int8.onnx",
        "model.onnx",
    ]
    assert result.lines()[4].endswith("passed, not kept")
    assert [card["precision"] for card in result.manifest["artifacts"]] == ["fp32", "int8"]


def test_two_photographs_are_not_enough_for_calibration(plain, tmp_path):
    with pytest.raises(UserError) as error:
        export_onnx(plain, tmp_path / "bundle", options=ExportOptions(int8=True))
    assert str(error.value) == (
        "--int8 needs real images for calibration, but has only crops of two photographs that scikit-learn "
        "ships, because no images were given; give --data DIR"
    )
    assert list(tmp_path.iterdir()) == []


def test_bf16_needs_an_opset_with_bf16_convolutions(plain, tmp_path):
    with pytest.raises(UserError) as error:
        export_onnx(plain, tmp_path / "bundle", ExportRequest(opset=20), options=ExportOptions(bf16=True))
    assert str(error.value) == (
        "bf16 needs --opset 22 or later, the first with bf16 convolutions, not 20; leave out --opset"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("precision", "opset"), [("fp16", 20), ("bf16", 22)])
def test_uint8_pixels_are_normalised_in_float32(plain, tmp_path, precision, opset):
    pixels = photographs(plain.spec, "x").pixels
    request, options = ExportRequest(opset=opset, uint8=True), ExportOptions(**{precision: True})
    result = export_onnx(plain, tmp_path / "bundle", request, pixels, options)
    assert result.verdicts[1].outcome == ("passed" if precision == "fp16" else "ungated")
    graph = onnx.shape_inference.infer_shapes(load(result, precision)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    assert [types[node.output[0]] for node in graph.node if node.op_type in {"Sub", "Div"}] == [TensorProto.FLOAT] * 2


def test_report_of_a_student_without_a_class_head_has_no_class_metrics(plain, tmp_path):
    headless = TimmModel(plain.network, replace(plain.spec, signals=frozenset({Signal.EMBEDDING})), {})
    image_set = ImageSet(photographs(plain.spec, "x").pixels, "some photographs", labels=np.zeros(54, np.int64))
    options = OnnxExporter.Options()
    asked = ExportOptions(fp16=True, int8=True)
    images = ExportImages(image_set, image_set)
    form = Format("onnx", OnnxExporter(options), options)
    result = export_model([form], ExportTarget(headless, ExportRequest(), lambda: images), tmp_path / "bundle", asked)
    result.require()
    assert result.lines()[1].split("  ")[-1] == "gate"
    for text in ("\n".join(result.lines()), (tmp_path / "bundle" / "parity.md").read_text().partition("## Limits")[0]):
        assert not any(word in text for word in ("top-1", "agreement", "accuracy"))
    int8 = json.loads((tmp_path / "bundle" / "parity.json").read_text())["files"]["model.int8.onnx"]
    assert (int8["top1_agreement"], int8["accuracy"]) == (None, None)
    assert int8["min_cosine"] > 0.98
