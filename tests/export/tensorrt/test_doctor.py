"""The doctor builds and runs an engine if TensorRT is installed, and survives a crash."""

from __future__ import annotations

from distillkit.plugin.registry import installed_plugins
from distillkit_export.doctor.diagnosis import diagnose
from distillkit_export.tensorrt.preflight import INSTALL


class OnlyTensorRt:
    broken = ()

    def listing(self, role):
        return [plugin for plugin in installed_plugins().listing(role) if plugin.spec.name == "tensorrt"]


def platform(double):
    return f"tensorrt {double.version}, NVIDIA Double 1, compute capability 8.9"


def test_engine_is_built_and_run(double):
    (report,) = diagnose(OnlyTensorRt()).runtimes
    assert report.verdict == "runs"
    assert report.explanation == f"{platform(double)}; ran on tensorrt {double.version}, cuda:0, fp32"


def test_missing_library_is_reported(double):
    double.set(TENSORRT_DOUBLE_FAILS="import")
    (report,) = diagnose(OnlyTensorRt()).runtimes
    missing = f"libnvinfer.so.{double.major}: cannot open shared object file"
    assert report.verdict == "not here"
    assert report.explanation == f"TensorRT cannot be imported: {missing}; install it again: {INSTALL}"


def test_crash_is_reported(double, tmp_path):
    double.set(TENSORRT_DOUBLE_FAILS="crash")
    (report,) = diagnose(OnlyTensorRt()).runtimes
    log = tmp_path / "cache" / "distillkit" / "tensorrt" / "build.log"
    assert report.verdict == "does not run"
    assert report.explanation == (
        f"{platform(double)}, but: the build of the TensorRT engine of tiny.onnx ended with signal SIGSEGV; "
        f"its log is {log}"
    )
