"""Conflicts between installed packages that each look fine alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from distillkit_export.runtimes.onnx_runtime import BUILDS, installed_builds
from distillkit_export.runtimes.torch_presence import has_cuda

TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-libs", "tensorrt-cu12-libs")
PROVIDER = "*onnxruntime_providers_tensorrt*"
CHUNK = 1 << 22


def conflicts(*, has_gpu: bool) -> Iterator[str]:
    """Yield a message for each conflict, with the fix."""
    builds = installed_builds()
    # Both install the same files, so the one installed last has overwritten the other.
    if len(builds) > 1:
        named = " and ".join(f"{name} {number}" for name, number in builds.items())
        yield (
            f"{named} are both installed and overwrite each other: pip uninstall {' '.join(BUILDS)}, then install the "
            'one you need, "distillkit[runtime]" or "distillkit[gpu]"'
        )
    # ONNX Runtime reports no error here: it falls back to the CPU.
    needed, installed = provider_tensorrt_major(_onnxruntime_folder()), tensorrt_version()
    if needed and installed and int(installed.partition(".")[0]) != needed:
        yield (
            f"ONNX Runtime's TensorRT provider is linked against TensorRT {needed}, but TensorRT {installed} is "
            f"installed, so onnxruntime-tensorrt cannot work: use the runtime tensorrt, or pip install "
            f'"tensorrt=={needed}.*"'
        )
    if has_gpu and find_spec("torch") is not None and not has_cuda():
        yield "this machine has an NVIDIA GPU, but torch cannot use it: install a torch build with CUDA"


def provider_tensorrt_major(onnxruntime: Path | None) -> int | None:
    """Major version of TensorRT that ONNX Runtime's TensorRT provider library is linked against."""
    for library in sorted(onnxruntime.rglob(PROVIDER)) if onnxruntime else ():
        with library.open("rb") as stream:
            tail = b""
            while chunk := stream.read(CHUNK):
                found = re.search(rb"(?:libnvinfer\.so\.|nvinfer_)(\d+)", tail + chunk)
                if found:
                    return int(found[1])
                tail = chunk[-32:]  # the name may be split over two chunks
    return None


def tensorrt_version() -> str | None:
    """Installed version of TensorRT, from its metadata, without importing it."""
    for name in TENSORRT:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _onnxruntime_folder() -> Path | None:
    spec = find_spec("onnxruntime")
    return Path(spec.origin).parent if spec and spec.origin else None
