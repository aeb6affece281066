"""ExportOptions: defaults, invalid values, and what exporters get."""

from __future__ import annotations

from dataclasses import fields

import pytest

from distillkit.contracts.exporter import ExportRequest, Provenance
from distillkit.errors import UserError
from distillkit_export import ExportOptions
from distillkit_export.export_options import parse_formats, parse_gate_images, parse_settings

CALIBRATION = "--calibration-images has no effect without FP16, INT8 or FP8; add --fp16, --int8 or --fp8"


def test_defaults_export_float32_with_the_head_and_fusion_of_the_run():
    options = ExportOptions()
    assert (options.precisions, options.exporters, options.comparison) == ((), (), None)
    assert options.settings_by_exporter() == {}
    assert options.request("distill", "softmax") == ExportRequest("distill", "softmax", 20)


def test_graph_options_are_in_the_request():
    options = ExportOptions(head="class", fusion="softmax", image_size=(12, 16), dynamic_size=True, softmax=True)
    assert options.request("distill", "logits", Provenance(model="a")) == ExportRequest(
        "class", "softmax", 20, (12, 16), dynamic_size=True, softmax=True, provenance=Provenance(model="a")
    )
    assert (ExportOptions(bf16=True).request().opset, ExportOptions(bf16=True, opset=23).request().opset) == (22, 23)


def test_8_bit_files_are_compared_with_float16():
    assert (ExportOptions(int8=True).comparison, ExportOptions(fp8=True).comparison) == ("fp16", "fp16")
    assert ExportOptions(int8=True, fp16=True).comparison is None
    assert ExportOptions(fp8=True, fp32=True, bf16=True).precisions == ("fp32", "bf16", "fp8")


def test_exporters_have_no_duplicates_and_no_onnx():
    assert ExportOptions(formats=("gzip", "onnx", "tensorrt", "gzip"), trt=True).exporters == ("gzip", "tensorrt")


def test_a_dedicated_option_overrides_a_setting():
    settings = {"tensorrt": {"batch": "1", "tf32": True}, "onnx": {"calibrator": "minmax"}, "gzip": {"level": 9}}
    options = ExportOptions(int8=True, calibrator="entropy", trt=True, batch="8", layers=True, settings=settings)
    assert ExportOptions(fp8=True, float_weights=True).settings_by_exporter() == {"onnx": {"float_weights": True}}
    assert options.settings_by_exporter() == {
        "tensorrt": {"batch": "8", "tf32": True, "layers": True},
        "onnx": {"calibrator": "entropy"},
        "gzip": {"level": 9},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibrator": "entropy", "fp8": True}, "--calibrator has no effect without INT8; add --int8"),
        (
            {"float_weights": True, "fp16": True},
            "--float-weights has no effect without INT8 or FP8; add --int8 or --fp8",
        ),
        ({"calibration_images": 8, "bf16": True}, CALIBRATION),
        ({"calibration_images": 128}, CALIBRATION),
        ({"batch": "8"}, "--batch has no effect without a TensorRT engine; add --trt"),
        (
            {"hardware_compatible": True, "formats": ("tensorrt",)},
            "--hardware-compatible has no effect without a TensorRT engine; add --trt",
        ),
        ({"head": "both"}, "unknown head 'both'; known: class, distill, fused"),
        ({"fusion": "sum"}, "unknown fusion 'sum'; known: logits, softmax"),
        ({"opset": 9}, "opset 9 is not supported; choose one from 18 to 23"),
        ({"tolerance": "lose"}, "unknown tolerance 'lose'; did you mean 'loose'? (known: default, loose, strict)"),
        ({"gate_images": 0}, "gate_images is 0; give 1 or more"),
        ({"calibration_images": 0, "int8": True}, "calibration_images is 0; give 1 or more"),
    ],
)
def test_invalid_values_and_options_without_effect_are_refused(given, message):
    with pytest.raises(UserError) as error:
        ExportOptions(**given)
    assert str(error.value) == message


def test_options_that_only_apply_to_a_student_are_marked():
    """The others also apply to a bundle: precisions, formats, their settings, the tolerance and --force."""
    assert [each.name for each in fields(ExportOptions) if each.metadata.get("student_only")] == [
        *("float_weights", "data", "gate_images", "calibration_images", "calibrator"),
        *("head", "fusion", "opset", "image_size", "dynamic_size", "softmax", "uint8", "checkpoint", "weights"),
    ]


def test_typed_texts_are_parsed():
    assert (parse_formats(None), parse_formats(["gzip", "tensorrt"])) == ((), ("gzip", "tensorrt"))
    assert [parse_gate_images(text) for text in (None, "all", "12")] == [None, "all", 12]
    assert [ExportOptions(gate_images=given).gate_limit for given in (None, "all", 12)] == [1000, None, 12]
    assert parse_settings(None) is None
    assert parse_settings(["onnx.calibrator=entropy", "gzip.level=9", "gzip.name=a"]) == {
        "onnx": {"calibrator": "entropy"},
        "gzip": {"level": 9, "name": "a"},
    }
