"""Files that must fail the gate: an overflow hidden by ONNX Runtime's CPU, broken calibration, wrong precision."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from distillkit.contracts.exporter import Artifact, ExportRequest
from distillkit.errors import GateError, UnavailableError
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.export_options import ExportOptions
from distillkit_export.from_torch.graph import onnx_graph
from distillkit_export.gate.checks import ranges, structure
from distillkit_export.gate.first_torch_module import first_module
from distillkit_export.gate.torch_half import half_scorer
from distillkit_export.images.gate_images import ExportImages, ImageSet, photographs
from distillkit_export.onnx import float16
from distillkit_export.onnx.exporter import OnnxExporter
from distillkit_export.onnx.first_difference import first_difference
from distillkit_export.onnx.float16 import to_half
from distillkit_export.onnx.node_names import name_nodes
from distillkit_export.onnx.session import OnnxSession
from distillkit_export.onnx.value_ranges import scan
from distillkit_export.pipeline.export import export_model, export_onnx
from distillkit_export.pipeline.formats import Format
from distillkit_export.pipeline.target import ExportTarget
from tests.export.small_student import small_student


def two_layers(up, folder):
    """Two layers on two numbers: the first multiplies their sum by `up`, the second divides by it."""
    weights = [np.full((2, 2), up, np.float32), np.full((2, 2), 1 / up, np.float32)]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["images", "w0"], ["hidden"], name="first/MatMul"),
            helper.make_node("MatMul", ["hidden", "w1"], ["logits"], name="second/MatMul"),
        ],
        "two layers",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight, f"w{place}") for place, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file = folder / "model.onnx"
    onnx.save(model, file)
    return file, model


ONES = np.ones((3, 2), np.float32)


def test_range_scan_finds_the_largest_value_of_every_tensor(tmp_path):
    file, _ = two_layers(1000.0, tmp_path)
    pixels = np.array([[1, 2], [-3, -4], [0, 0]], np.float32)
    assert scan(file, pixels) == pytest.approx({"hidden": 7000.0, "logits": 14.0})


def test_overflow_is_infinite_in_torch_and_finite_in_onnx_runtime(tmp_path):
    """If this fails because ONNX Runtime computes float16 on the CPU, the range scan and the torch check can go."""
    file, model = two_layers(16_000.0, tmp_path)
    half, kept = to_half(model, {})
    onnx.save(half, tmp_path / "half.onnx")
    assert kept == []
    assert np.isfinite(OnnxSession(tmp_path / "half.onnx")(10 * ONES)).all()
    assert not (torch.full((1, 2), 10.0).half() @ torch.full((2, 2), 16_000.0).half()).isfinite().all()
    found = ranges(half, scan(file, 10 * ONES))
    assert (found.passed, found.finding) == (
        False,
        "overflows float16 at first/MatMul: 320,000, the largest float16 is 65,504",
    )


@pytest.mark.parametrize(("up", "kept"), [(8_000.0, []), (9_000.0, ["first/MatMul", "second/MatMul"])])
def test_values_above_a_quarter_of_the_limit_stay_in_float32(tmp_path, up, kept):
    file, model = two_layers(up, tmp_path)
    half, found = to_half(model, scan(file, ONES))
    assert found == kept
    assert ranges(half, scan(file, ONES)).passed


def test_norms_stay_in_float32_where_squares_would_overflow():
    node = helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["y"])
    assert not float16._needs_float32(node, {"x": 127.0, "y": 3.0})
    assert float16._needs_float32(node, {"x": 129.0, "y": 3.0})
    assert not float16._needs_float32(helper.make_node("Add", ["x", "x"], ["y"]), {"x": 129.0, "y": 258.0})


def test_first_layer_that_differs_is_named(tmp_path):
    reference, model = two_layers(10.0, tmp_path)
    broken = deepcopy(model)
    broken.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.eye(2, dtype=np.float32), "w1"))
    onnx.save(broken, tmp_path / "broken.onnx")
    # Four becomes twenty: 10 log10(4² / 16²) decibels.
    assert first_difference(reference, tmp_path / "broken.onnx", ONES, 20.0) == "second/MatMul (-12.0 dB)"
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((2, 2), np.nan, np.float32), "w0"))
    onnx.save(broken, tmp_path / "broken.onnx")
    assert first_difference(reference, tmp_path / "broken.onnx", ONES, 20.0) == "first/MatMul (not finite)"


def test_no_loss_is_counted_from_layers_that_are_equal(tmp_path):
    """Both SQNR are infinite, and their difference is not a number."""
    reference, model = two_layers(10.0, tmp_path)
    onnx.save(model, tmp_path / "same.onnx")
    assert first_difference(reference, tmp_path / "same.onnx", ONES, 20.0) is None
    # The second layer alone differs, by less than the limit.
    weights = numpy_helper.to_array(model.graph.initializer[1]) * np.float32(1.01)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights, "w1"))
    onnx.save(model, tmp_path / "near.onnx")
    assert first_difference(reference, tmp_path / "near.onnx", ONES, 20.0) == "second/MatMul (40.0 dB)"


def test_structure_check_rejects_what_tensorrt_rejects():
    def quantized(point, kind=np.int8):
        values = [np.array(0.1, np.float32), np.array(point, kind)]
        names = ("scale", "point")
        graph = helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["x", *names], ["q"], name="pair"),
                helper.make_node("DequantizeLinear", ["q", *names], ["y"], name="back"),
            ],
            "pair",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
            [numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    assert structure(quantized(0)).passed
    assert structure(quantized(3)).finding == "has a non-zero zero point at pair"
    invalid = quantized(0)
    invalid.graph.node[1].input[0] = "elsewhere"
    assert structure(invalid).finding.startswith("is not a valid graph: ")


@pytest.fixture(scope="module")
def overflowing(plain):
    """A student whose hidden layer overflows float16 and whose output does not."""
    student = deepcopy(plain)
    hidden = student.network.blocks[0].mlp
    with torch.no_grad():
        hidden.fc1.weight.mul_(1e5)
        hidden.fc2.weight.div_(1e5)
    return student


def images_of(student):
    return photographs(student.spec, "x").pixels


def test_layers_that_overflow_stay_in_float32_and_the_student_passes(overflowing, tmp_path):
    result = export_onnx(
        overflowing, tmp_path / "bundle", images=images_of(overflowing), options=ExportOptions(fp16=True)
    )
    result.require()
    half = result.verdicts[1]
    assert set(half.artifact.made_with["float32"]) == {
        "blocks.0.mlp.fc1/MatMul",
        "blocks.0.mlp.fc1/Add",
        "blocks.0.mlp.act/Gelu",
        "blocks.0.mlp.fc2/MatMul",
    }
    assert {check.name: check.passed for check in half.checks} == {
        "structure": True,
        "range scan": True,
        "torch forward in fp16": True,
    }
    everything = half_scorer(overflowing, ExportRequest(), "fp16")
    assert not np.isfinite(everything(images_of(overflowing)[:2])).all()


def test_overflow_that_onnx_runtime_hides_fails_the_gate(overflowing, tmp_path, monkeypatch):
    monkeypatch.setattr(float16, "_needs_float32", lambda *_: False)
    target = tmp_path / "bundle"
    result = export_onnx(overflowing, target, images=images_of(overflowing), options=ExportOptions(fp16=True))
    failed = result.verdicts[1]
    assert failed.parity.overall.finite
    assert {check.name: check.passed for check in failed.checks} == {
        "structure": True,
        "range scan": False,
        "torch forward in fp16": False,
    }
    with pytest.raises(GateError) as error:
        result.require()
    assert error.value.exit_code == 4
    message = str(error.value)
    assert "overflows float16 at blocks.0.mlp.fc1/MatMul: " in message
    assert "when run by torch in fp16: outputs NaN or infinity for a batch of 1" in message
    assert message.endswith(f"; kept in '{target / 'rejected'}'; files that passed are in '{target}'")
    assert [path.name for path in (target / "rejected").iterdir()] == ["model.fp16.onnx"]


class OtherWhenExported(torch.nn.Module):
    """GELU in eager mode, ReLU when exported."""

    def forward(self, values):
        function = torch.nn.functional.relu if torch.compiler.is_exporting() else torch.nn.functional.gelu
        return function(values)


def test_float32_that_differs_from_torch_names_metric_limit_and_layer(plain, tmp_path):
    student, target, hidden = deepcopy(plain), tmp_path / "bundle", []
    mlp = student.network.blocks[0].mlp
    mlp.act = OtherWhenExported()
    with pytest.raises(GateError) as error:
        export_onnx(student, target, images=images_of(student))
    assert error.value.exit_code == 4
    mlp.fc1.register_forward_hook(lambda _module, _inputs, output: hidden.append(output.double()))
    with torch.inference_mode():
        student.network.eval()(torch.from_numpy(images_of(student)[:8]))
    right, wrong = torch.nn.functional.gelu(hidden[0]), torch.nn.functional.relu(hidden[0])
    decibels = 10 * torch.log10(right.square().sum() / (right - wrong).square().sum()).item()
    failures = json.loads((target / "rejected" / "parity.json").read_text())["files"]["model.onnx"]["failures"]
    assert failures
    assert str(error.value) == (
        f"model.onnx {'; '.join(failures)}; the first layer that differs is blocks.0.mlp.act ({decibels:.1f} dB); "
        f"the files are kept in '{target / 'rejected'}'"
    )


def test_module_merged_with_the_next_is_not_a_difference(tmp_path):
    student = small_student("resnet18", image_size=(32, 32))
    graph, images = onnx_graph(student, ExportRequest()), images_of(student)[:2]
    name_nodes(graph)
    onnx.save(graph, tmp_path / "model.onnx")
    assert not [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
    assert first_module(student, ExportRequest(), tmp_path / "model.onnx", images, 90.0) is None
    student.network.layer2[0].bn1.bias.data += 1.0
    found = first_module(student, ExportRequest(), tmp_path / "model.onnx", images, 90.0)
    assert found.startswith("layer2.0.bn1 (")


class BrokenCalibration(OnnxExporter):
    """A faulty exporter whose INT8 ranges are too small by a factor of 100."""

    def write(self, source, directory, precision):
        artifact = super().write(source, directory, precision)
        if precision == "int8":
            model = onnx.load(directory / artifact.file)
            weights = {entry.name: entry for entry in model.graph.initializer}
            for node in model.graph.node:
                if node.op_type == "QuantizeLinear" and node.input[0] not in weights:
                    scale = weights[node.input[1]]
                    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 100, scale.name))
            onnx.save(model, directory / artifact.file)
        return artifact


class SilentFloat32(OnnxExporter):
    """A faulty exporter that writes float32 instead of float16."""

    def write(self, source, directory, precision):
        artifact = super().write(source, directory, "fp32")
        if precision == "fp32":
            return artifact
        (directory / artifact.file).replace(directory / "model.fp16.onnx")
        super().write(source, directory, "fp32")
        return Artifact("onnx", "model.fp16.onnx", precision)


def exported_by(kind, student, folder, *precisions):
    options = kind.Options()
    image_set = ImageSet(images_of(student), "some photographs")
    images = ExportImages(image_set, image_set)
    export_options = ExportOptions(**dict.fromkeys(precisions, True))
    target = ExportTarget(student, ExportRequest(), lambda: images)
    return export_model([Format("onnx", kind(options), options)], target, folder, export_options)


@pytest.fixture(scope="module")
def broken(plain, tmp_path_factory):
    return exported_by(BrokenCalibration, plain, tmp_path_factory.mktemp("broken") / "bundle", "fp16", "int8")


def test_broken_calibration_fails_and_names_metric_limit_and_layer(broken):
    outcomes = {each.artifact.precision: each.outcome for each in broken.verdicts}
    assert outcomes == {"fp32": "passed", "fp16": "passed", "int8": "failed"}
    parity = broken.verdicts[2].parity
    with pytest.raises(GateError) as error:
        broken.require()
    folder = broken.directory
    assert str(error.value).startswith(
        f"model.int8.onnx has an SQNR of {parity.overall.sqnr_db:.1f} dB (at least 20 dB required); "
    )
    assert "; the first layer that differs is blocks.0.attn.qkv/MatMul (" in str(error.value)
    assert str(error.value).endswith(f"; kept in '{folder / 'rejected'}'; files that passed are in '{folder}'")


def test_files_that_passed_are_a_valid_bundle_without_the_failed_one(broken):
    bundle = open_bundle(broken.directory)
    assert [card.file for card in bundle.manifest.artifacts] == ["model.onnx", "model.fp16.onnx"]
    assert [path.name for path in (broken.directory / "rejected").iterdir()] == ["model.int8.onnx"]
    assert not any(name.startswith("rejected") for name in bundle.manifest.files)
    entry = json.loads((broken.directory / "parity.json").read_text())["files"]["model.int8.onnx"]
    assert (entry["gate"], entry["passed"]) == ("failed", False)
    assert "| failed |" in (broken.directory / "parity.md").read_text()


def test_wrong_precision_in_the_file_is_an_error(plain, tmp_path):
    result = exported_by(SilentFloat32, plain, tmp_path / "bundle", "fp16")
    with pytest.raises(GateError) as error:
        result.require()
    assert str(error.value).startswith("model.fp16.onnx is fp32, but fp16 was requested; kept in ")


class NoRuntime(OnnxExporter):
    """A format that no runtime on this machine executes."""

    def open(self, file):
        raise UnavailableError("a robot is needed")


def test_ungated_file_is_not_reported_as_passed(plain, tmp_path):
    result = exported_by(NoRuntime, plain, tmp_path / "bundle")
    assert [card["gate"] for card in result.manifest["artifacts"]] == ["ungated"]
    with pytest.raises(UnavailableError) as error:
        result.require()
    assert str(error.value) == (
        "model.onnx was not gated: a robot is needed; on a machine that executes it run: "
        f"distillkit verify {tmp_path / 'bundle'}"
    )
