"""Error for a missing optional dependency: it names the extra for this machine."""

from pathlib import Path

import pytest

from distillkit.plugin.extras import missing_extra


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("torch", '"distillkit[train]"'),
        ("huggingface_hub.errors", '"distillkit[train]"'),
        ("onnx", '"distillkit[export]"'),
        ("openvino", '"distillkit[openvino]"'),
        ("tensorflow_datasets", "tensorflow_datasets"),
    ],
)
def test_the_extra_that_installs_a_module(module: str, remedy: str) -> None:
    assert str(missing_extra(module, "this")) == (
        f"this needs {module.partition('.')[0]}, which is not installed; pip install {remedy}"
    )


def test_with_onnxruntime_gpu_installed_the_extra_is_export_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(missing_extra("onnx", "the export")) == (
        'the export needs onnx, which is not installed; pip install "distillkit[export-gpu]"'
    )
    assert str(missing_extra("torch", "the export")) == (
        'the export needs torch, which is not installed; pip install "distillkit[train]"'
    )
