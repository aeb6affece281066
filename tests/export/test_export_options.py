"""The options of an export: what they refuse, and what they come to."""

from __future__ import annotations

from dataclasses import fields

import pytest

from distillkit.contracts.exporter import ExportRequest, Provenance
from distillkit.errors import UserError
from distillkit_export import ExportOptions
from distillkit_export.export_options import parse_formats, parse_gate_images, parse_settings

CALIBRATION = (
    "--calibration-images is about the ranges that FP16, INT8 and FP8 need, and none was asked for; add --int8, --fp8 "
    "or --fp16"
)


def test_options_alone_export_float32_as_the_run_answers():
    options = ExportOptions()
    assert (options.precisions, options.exporters, options.compared) == ((), (), None)
    assert options.settings_by_exporter() == {}
    assert options.request("distill", "softmax") == ExportRequest("distill", "softmax", 20)


def test_options_of_the_graph_reach_the_request():
    options = ExportOptions(head="class", fusion="softmax", image_size=(12, 16), dynamic_size=True, softmax=True)
    assert options.request("distill", "logits", Provenance(model="a")) == ExportRequest(
        "class", "softmax", 20, (12, 16), dynamic_size=True, softmax=True, provenance=Provenance(model="a")
    )
    assert (ExportOptions(bf16=True).request().opset, ExportOptions(bf16=True, opset=23).request().opset) == (22, 23)


def test_eight_bits_are_compared_with_float16():
    assert (ExportOptions(int8=True).compared, ExportOptions(fp8=True).compared) == ("fp16", "fp16")
    assert ExportOptions(int8=True, fp16=True).compared is None
    assert ExportOptions(fp8=True, fp32=True, bf16=True).precisions == ("fp32", "bf16", "fp8")


def test_each_exporter_is_named_once_and_onnx_is_not_another():
    assert ExportOptions(formats=("gzip", "onnx", "tensorrt", "gzip"), trt=True).exporters == ("gzip", "tensorrt")


def test_an_option_of_its_own_outranks_a_setting():
    settings = {"tensorrt": {"batch": "1", "tf32": True}, "onnx": {"calibrator": "minmax"}, "gzip": {"level": 9}}
    options = ExportOptions(int8=True, calibrator="entropy", trt=True, batch="8", layers=True, settings=settings)
    assert options.settings_by_exporter() == {
        "tensorrt": {"batch": "8", "tf32": True, "layers": True},
        "onnx": {"calibrator": "entropy"},
        "gzip": {"level": 9},
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"calibrator": "entropy", "fp8": True}, "--calibrator is about INT8, and none was asked for; add --int8"),
        ({"calibration_images": 8, "bf16": True}, CALIBRATION),
        ({"calibration_images": 128}, CALIBRATION),
        ({"batch": "8"}, "--batch is about a TensorRT engine, and none was asked for; add --trt"),
        (
            {"hardware_compatible": True, "formats": ("tensorrt",)},
            "--hardware-compatible is about a TensorRT engine, and none was asked for; add --trt",
        ),
        ({"head": "both"}, "unknown head 'both'; known: class, distill, fused"),
        ({"fusion": "sum"}, "unknown fusion 'sum'; known: logits, softmax"),
        ({"opset": 9}, "opset 9 is not supported; choose one from 18 to 23"),
        ({"tolerance": "lose"}, "unknown tolerance 'lose'; did you mean 'loose'? (known: default, loose, strict)"),
        ({"gate_images": 0}, "gate_images is 0; give 1 or more"),
        ({"calibration_images": 0, "int8": True}, "calibration_images is 0; give 1 or more"),
    ],
)
def test_what_is_not_allowed_or_has_no_effect_is_a_sentence(given, sentence):
    with pytest.raises(UserError) as error:
        ExportOptions(**given)
    assert str(error.value) == sentence


def test_what_is_about_the_student_is_known_of_every_option():
    """For a bundle remain the precisions, the formats, their settings, the tolerance and --force."""
    assert [each.name for each in fields(ExportOptions) if each.metadata.get("of_student")] == [
        *("data", "gate_images", "calibration_images", "calibrator"),
        *("head", "fusion", "opset", "image_size", "dynamic_size", "softmax", "uint8", "weights"),
    ]


def test_what_is_typed_becomes_a_value():
    assert (parse_formats(None), parse_formats(["gzip", "tensorrt"])) == ((), ("gzip", "tensorrt"))
    assert [parse_gate_images(text) for text in (None, "all", "12")] == [None, "all", 12]
    assert [ExportOptions(gate_images=given).gate_limit for given in (None, "all", 12)] == [1000, None, 12]
    assert parse_settings(None) is None
    assert parse_settings(["onnx.calibrator=entropy", "gzip.level=9", "gzip.name=a"]) == {
        "onnx": {"calibrator": "entropy"},
        "gzip": {"level": 9, "name": "a"},
    }
