"""The contract between exporters and the export stage."""

from __future__ import annotations

import pytest

from distillkit.contracts.exporter import ExportRequest
from distillkit.errors import UserError
from distillkit_export.onnx.exporter import OnnxExporter


def refusal(**options):
    with pytest.raises(UserError) as error:
        ExportRequest(**options)
    return str(error.value)


def test_unknown_head_names_the_known_ones():
    assert refusal(head="fuse") == "unknown head 'fuse'; did you mean 'fused'? (known: class, distill, fused)"


def test_unknown_fusion_names_the_known_ones():
    assert refusal(fusion="soft") == "unknown fusion 'soft'; did you mean 'softmax'? (known: logits, softmax)"


@pytest.mark.parametrize("opset", [17, 24])
def test_opset_out_of_range(opset):
    assert refusal(opset=opset) == f"opset {opset} is not supported; choose one from 18 to 23"


def test_exporter_is_found_by_name(plugins):
    assert plugins.find("exporter", "onnx").load() is OnnxExporter
    assert plugins.find("exporter", "onnx").spec.summary == "one ONNX file with dynamic batch, checked in ONNX Runtime"
