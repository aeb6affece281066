"""The preflight check finds what is missing in the right order and never crashes this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.errors import UnavailableError
from distillkit_export.tensorrt.preflight import INSTALL, Missing, Platform, find_platform, require_platform
from distillkit_export.tensorrt.runtime import TensorRt

NO_DRIVER = "CUDA error: CUDA driver version is insufficient for CUDA runtime version (cudaErrorInsufficientDriver)"


def test_everything_is_there(double):
    assert find_platform() == Platform("NVIDIA Double 1", "8.9", double.version, "13.1")
    availability = TensorRt().availability()
    assert availability.works
    assert availability.detail == f"tensorrt {double.version}, NVIDIA Double 1, compute capability 8.9"


def test_tensorrt_is_not_installed():
    assert find_platform() == Missing("TensorRT is not installed", INSTALL)
    with pytest.raises(UnavailableError) as refusal:
        require_platform()
    assert str(refusal.value) == 'TensorRT is not installed; pip install "distillkit[trt]"'
    availability = TensorRt().availability()
    assert (availability.works, availability.detail, availability.remedy) == (
        False,
        "TensorRT is not installed",
        'pip install "distillkit[trt]"',
    )


def test_library_is_missing(double):
    double.set(TENSORRT_DOUBLE_FAILS="import")
    assert find_platform() == Missing(
        f"TensorRT cannot be imported: libnvinfer.so.{double.major}: cannot open shared object file",
        f"install it again: {INSTALL}",
    )


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("none", "CUDA finds no usable GPU"),
        ("driver", f"CUDA finds no usable GPU: {NO_DRIVER}"),
    ],
)
def test_missing_gpu_is_found_before_tensorrt_objects_are_created(failure, reason, double):
    double.set(CUDA_DOUBLE_FAILS=failure, TENSORRT_DOUBLE_FAILS="crash", TENSORRT_DOUBLE_VERSION="9.3.0")
    assert find_platform() == Missing(reason, "run this on a machine with an NVIDIA GPU")
    assert not double.log.exists()


def test_other_major_version_is_refused(double):
    double.set(TENSORRT_DOUBLE_VERSION="12.0.1")
    assert find_platform() == Missing("TensorRT 12.0.1 is installed, but 10 or 11 is needed", INSTALL)


def test_crash_of_the_import_is_a_message(monkeypatch, fresh_imports, tmp_path):
    (tmp_path / "tensorrt.py").write_text("import ctypes; ctypes.string_at(0)")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_platform() == Missing("importing TensorRT ended with signal SIGSEGV", f"install it again: {INSTALL}")


def test_file_in_the_current_folder_is_not_imported_as_tensorrt(monkeypatch, tmp_path, double):
    (tmp_path / "tensorrt.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    assert find_platform() == Platform("NVIDIA Double 1", "8.9", double.version, "13.1")


def test_real_bindings_without_libraries_are_a_message(monkeypatch, fresh_imports, tmp_path):
    """Only the wheel of the bindings, as after a failed installation of the libraries."""
    import sys

    bindings = Path(sys.prefix) / "tensorrt-11"
    if not list(bindings.glob("tensorrt_bindings/*.so")):
        pytest.skip(f"needs the bindings of TensorRT 11; make puts them into {bindings}")
    (tmp_path / "tensorrt.py").write_text("from tensorrt_bindings import *")
    monkeypatch.syspath_prepend(bindings)
    monkeypatch.syspath_prepend(tmp_path)
    found = find_platform()
    assert isinstance(found, Missing)
    assert found.reason.startswith("TensorRT cannot be imported: ")
    assert ".so.11: cannot open shared object file" in found.reason
