"""Conflicts between installed packages are reported with the fix."""

from __future__ import annotations

import pytest

from distillkit_export.doctor import conflicts as module
from distillkit_export.doctor.conflicts import conflicts, provider_tensorrt_major


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Pretend that a distribution is installed."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(name, version):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return installed


@pytest.fixture
def provider(tmp_path, monkeypatch):
    """A fake ONNX Runtime whose provider library is linked against a version of TensorRT."""

    def linked(name, content):
        folder = tmp_path / "onnxruntime" / "capi"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(content)
        monkeypatch.setattr(module, "_onnxruntime_folder", lambda: tmp_path / "onnxruntime")
        return tmp_path / "onnxruntime"

    return linked


def test_this_environment_has_no_conflicts():
    assert list(conflicts(has_gpu=False)) == []


def test_two_builds_of_onnxruntime(install, monkeypatch):
    install("onnxruntime-gpu", "1.31.1")
    monkeypatch.setattr(module, "installed_builds", lambda: {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"})
    (finding,) = conflicts(has_gpu=False)
    assert finding == (
        "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 are both installed and overwrite each other: pip uninstall "
        'onnxruntime onnxruntime-gpu, then install the one you need, "distillkit[runtime]" or "distillkit[gpu]"'
    )


SO = "libonnxruntime_providers_tensorrt.so"


def test_provider_linked_against_another_tensorrt_version(install, provider):
    provider(SO, b"\x7fELF" + b"\0" * 100 + b"libnvinfer.so.10\0libnvinfer_plugin.so.10\0")
    assert list(conflicts(has_gpu=False)) == []  # no conflict without TensorRT
    install("tensorrt-cu13", "11.4.0.106")
    (finding,) = conflicts(has_gpu=False)
    assert finding == (
        "ONNX Runtime's TensorRT provider is linked against TensorRT 10, but TensorRT 11.4.0.106 is installed, so "
        'onnxruntime-tensorrt cannot work: use the runtime tensorrt, or pip install "tensorrt==10.*"'
    )


def test_provider_linked_against_the_installed_tensorrt(install, provider):
    provider(SO, b"libnvinfer.so.10\0")
    install("tensorrt", "10.16.1.11")
    assert list(conflicts(has_gpu=False)) == []


@pytest.mark.parametrize(
    ("name", "content", "major"),
    [
        (SO, b"x" * (module.CHUNK - 8) + b"libnvinfer.so.11\0", 11),
        ("onnxruntime_providers_tensorrt.dll", b"nvinfer_10.dll", 10),
        (SO, b"nothing", None),
        ("libonnxruntime_providers_cuda.so", b"libnvinfer.so.10", None),
    ],
    ids=["split over two chunks", "Windows", "not linked", "another provider"],
)
def test_version_is_read_from_the_library(name, content, major, provider):
    assert provider_tensorrt_major(provider(name, content)) == major


def test_torch_that_cannot_use_the_gpu(monkeypatch):
    monkeypatch.setattr(module, "has_cuda", lambda: False)
    assert list(conflicts(has_gpu=True)) == [
        "this machine has an NVIDIA GPU, but torch cannot use it: install a torch build with CUDA"
    ]
