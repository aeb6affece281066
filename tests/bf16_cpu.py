"""Skip a test that needs a CPU with bf16 instructions: without them no runtime executes a bf16 ONNX file."""

import pytest


def require_bf16() -> None:
    """Skip the test where OpenVINO is missing, or computes bf16 files in float32."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16 instructions, so no runtime executes the bf16 file")
