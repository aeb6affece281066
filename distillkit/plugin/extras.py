"""Optional dependencies: the extra that installs each module, and the error for a missing one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from distillkit.errors import MissingExtraError

EXTRA_OF_MODULE = {
    "huggingface_hub": "train",
    "matplotlib": "train",
    "sklearn": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "onnx": "export",
    "onnxconverter_common": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "optuna": "tune",
    "pandas": "pandas",
    "tensorrt": "trt",
    "datasets": "timm-data",
    "webdataset": "timm-data",
}


def missing_extra(module: str, what: str) -> MissingExtraError:
    """The error for a missing module; `what` is the subject of the sentence ("teacher 'vit-b'").

    >>> str(missing_extra("torch", "distillkit run"))
    'distillkit run needs torch, which is not installed; pip install "distillkit[train]"'
    """
    root = module.partition(".")[0]
    extra = EXTRA_OF_MODULE.get(root)
    if extra == "export" and _is_installed("onnxruntime-gpu"):
        extra = "export-gpu"  # "export" would overwrite ONNX Runtime with the CPU build
    remedy = f'pip install "distillkit[{extra}]"' if extra else f"pip install {root}"
    return MissingExtraError(f"{what} needs {root}, which is not installed; {remedy}")


def require(*modules: str, what: str) -> None:
    """Raise MissingExtraError for the first of `modules` that is not installed. Imports none of them."""
    for module in modules:
        if find_spec(module) is None:
            raise missing_extra(module, what)


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
