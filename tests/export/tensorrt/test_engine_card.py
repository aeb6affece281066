"""Which machines an engine card matches."""

from __future__ import annotations

import pytest

from distillkit.errors import UnavailableError
from distillkit_export.tensorrt.engine_card import EngineCard
from distillkit_export.tensorrt.options import BatchProfile
from distillkit_export.tensorrt.preflight import Platform

H100 = Platform("NVIDIA H100", "9.0", "10.13.0", "13.0")


def card(**changes: object) -> EngineCard:
    """The card of an engine built on an H100 with TensorRT 10.13.0."""
    fields = {
        "file": "model.plan",
        "sha256": "0",
        "bytes": 1,
        "onnx_file": "model.onnx",
        "onnx_sha256": "1",
        "precision": "fp16",
        "network": {},
        "layers": {},
        "gpu": H100.gpu,
        "compute_capability": H100.compute_capability,
        "tensorrt": H100.tensorrt,
        "cuda": H100.cuda,
        "batch": BatchProfile(1, 8, 64),
        "workspace": None,
        "hardware_compatible": False,
        "version_compatible": False,
        "optimization_level": 3,
        "tf32": False,
        "timing_cache": "new",
        "tensors": (),
        "build_s": 1.0,
    }
    return EngineCard.model_validate(fields | changes)


@pytest.mark.parametrize("version", ["", "none", "9" * 5000, "\u0663.1"])
def test_a_card_with_any_text_as_version_is_of_another_machine(version):
    """Promise: a file with wrong content is an error of one sentence that names the file.

    Attempt: an engine card whose TensorRT version is a word, or has 5,000 digits.
    """
    with pytest.raises(UnavailableError, match=r"^engine model\.plan was built for TensorRT "):
        card(version_compatible=True, tensorrt=version).require_match(H100)


@pytest.mark.parametrize(
    ("options", "gpu", "capability", "version", "differences"),
    [
        ({}, "NVIDIA H100", "9.0", "10.13.0", ""),
        ({}, "NVIDIA H200", "9.0", "10.13.0", "GPU NVIDIA H100, not NVIDIA H200"),
        ({}, "NVIDIA H100", "10.0", "10.13.0", "compute capability 9.0, not 10.0"),
        ({}, "NVIDIA H100", "9.0", "10.13.1", "TensorRT 10.13.0, not 10.13.1"),
        (
            {},
            "NVIDIA L4",
            "8.9",
            "11.0.0",
            "GPU NVIDIA H100, not NVIDIA L4; compute capability 9.0, not 8.9; TensorRT 10.13.0, not 11.0.0",
        ),
        ({"hardware_compatible": True}, "NVIDIA A100", "8.0", "10.13.0", ""),
        ({"hardware_compatible": True}, "NVIDIA B200", "10.0", "10.13.0", ""),
        ({"hardware_compatible": True}, "NVIDIA T4", "7.5", "10.13.0", "compute capability 9.0, not 7.5"),
        ({"hardware_compatible": True}, "NVIDIA A100", "8.0", "10.13.1", "TensorRT 10.13.0, not 10.13.1"),
        ({"version_compatible": True}, "NVIDIA H100", "9.0", "10.13.1", ""),
        ({"version_compatible": True}, "NVIDIA H100", "9.0", "10.100.0", ""),
        ({"version_compatible": True}, "NVIDIA H100", "9.0", "10.9.0", "TensorRT 10.13.0, not 10.9.0"),
        ({"version_compatible": True}, "NVIDIA H100", "9.0", "11.0.0", "TensorRT 10.13.0, not 11.0.0"),
        ({"version_compatible": True}, "NVIDIA H200", "9.0", "10.13.0", "GPU NVIDIA H100, not NVIDIA H200"),
    ],
)
def test_engine_matches_its_machine_or_what_it_was_built_to_be_compatible_with(
    options: dict[str, bool], gpu: str, capability: str, version: str, differences: str
) -> None:
    """Hardware compatibility starts at Ampere (8.0); version compatibility covers newer releases of one major."""
    here = Platform(gpu, capability, version, "13.0")
    if not differences:
        card(**options).require_match(here)
        return
    with pytest.raises(UnavailableError) as refusal:
        card(**options).require_match(here)
    assert str(refusal.value) == (
        f"engine model.plan was built for {differences}; build one for this machine: distillkit export BUNDLE --trt "
        "--fp16 --force"
    )
