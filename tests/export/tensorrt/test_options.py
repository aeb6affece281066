"""Options of the TensorRT exporter: valid and invalid values; layer types."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from distillkit_export.tensorrt.layers import precision_of_layers, types_of
from distillkit_export.tensorrt.options import BatchProfile, TensorRtOptions


@pytest.mark.parametrize(
    ("text", "profile"), [("1:8:64", (1, 8, 64)), ("7", (7, 7, 7)), (BatchProfile(1, 2, 3), (1, 2, 3))]
)
def test_batches(text, profile):
    assert TensorRtOptions(batch=text).batch == profile


@pytest.mark.parametrize("text", ["", "0:1:2", "8:1:64", "1:8", "1:2:3:4", "-1:2:3", "a:b:c", "1.5"])
def test_other_batches_are_refused(text):
    with pytest.raises(ValidationError, match=f"'{text}' is not a batch profile; "):
        TensorRtOptions(batch=text)


def test_batch_is_bounded():
    assert TensorRtOptions(batch="1:8:65536").batch == (1, 8, 65536)
    with pytest.raises(ValidationError) as error:
        TensorRtOptions(batch="1:8:65537")
    (mistake,) = error.value.errors()
    assert mistake["msg"] == (
        "Value error, '1:8:65537' is not a batch profile; its numbers must be at most 65,536, as in 1:8:64"
    )


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 << 30), ("512M", 512 << 20), ("3GiB", 3 << 30), (1024, 1024), (None, None)]
)
def test_workspace(text, size):
    assert TensorRtOptions(workspace=text).workspace == size


@pytest.mark.parametrize("text", ["", "4X", "-1G", "0", "1.5G", "G"])
def test_other_workspaces_are_refused(text):
    with pytest.raises(ValidationError, match=f"'{text}' is not an amount of memory; write 4G or 512M"):
        TensorRtOptions(workspace=text)


def test_options_survive_serialisation():
    options = TensorRtOptions(batch="1:2:3", workspace="1G", layers=True)
    assert options.model_dump(mode="json", exclude_defaults=True) == {
        "batch": "1:2:3",
        "workspace": "1G",
        "layers": True,
    }
    assert TensorRtOptions.model_validate(options.model_dump(mode="json")) == options


SEVERAL = """{"Layers": [
    {"Outputs": [{"Format": "Row major linear", "Datatype": "BFloat16"}]},
    {"Outputs": [{"Format/Datatype": "Row major Int8 format"}, {"Datatype": "Float"}]},
    {"Outputs": [{"Datatype": "Int64"}]},
    {"Inputs": [{"Datatype": "Half"}]}
]}"""


def test_path_of_the_timing_cache_is_not_serialised():
    assert TensorRtOptions(timing_cache="a/b").model_dump(mode="json", exclude_defaults=True) == {}


@pytest.mark.parametrize(
    ("report", "types"),
    [
        ("not JSON", {}),
        ("[]", {}),
        ('{"Layers": ["a", "b"]}', {}),
        ('{"Layers": [{"Name": "a", "Outputs": [{"Format/Datatype": "Half"}]}]}', {"fp16": 1}),
        (SEVERAL, {"bf16": 1, "fp32": 1, "int8": 1}),
    ],
)
def test_types_of_layers_are_found_in_any_field_of_the_report(report, types):
    assert types_of(report) == types


@pytest.mark.parametrize(
    ("types", "precision"),
    [
        ({}, None),
        ({"fp32": 9}, "fp32"),
        ({"fp32": 9, "fp16": 1}, "fp16"),
        ({"fp16": 9, "int8": 1}, "int8"),
        ({"bf16": 1, "fp32": 1}, "bf16"),
        ({"fp8": 1, "bf16": 5}, "fp8"),
    ],
)
def test_narrowest_type_is_the_precision(types, precision):
    assert precision_of_layers(types) == precision
