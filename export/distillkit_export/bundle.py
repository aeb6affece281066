"""What an export says about itself: the same facts in `export.json`, and in the exported file where it has room."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts import Signal
from distillkit.exporting import BATCH, INPUT, output_name
from distillkit.files import write_json
from distillkit.version import __version__

if TYPE_CHECKING:
    from distillkit.contracts import ModelSpec
    from distillkit.exporting import Artifact, ExportRequest

SCHEMA_VERSION = 1
COLORS = {1: "L", 3: "RGB"}
SOFTWARE = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


def describe(spec: ModelSpec, request: ExportRequest) -> dict[str, Any]:
    """The facts that someone with the file alone needs: what goes in, what comes out, and where it comes from."""
    from_ = request.provenance
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"run": from_.run, "weights_sha256": from_.weights_sha256},
        "student": {
            "model": from_.model or spec.name,
            "options": dict(from_.options),
            "architecture": spec.architecture,
            "parameters": spec.parameters,
            "licence": spec.licence,
        },
        "teachers": [dict(teacher) for teacher in from_.teachers],
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "layout": "NCHW",
            "shape": [BATCH, len(spec.mean), *spec.image_size],
            "color": COLORS.get(len(spec.mean)),
            "scale": "pixels from 0 to 1, then minus mean, then divided by std, per channel",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "interpolation": spec.interpolation,
            "crop": spec.crop,
        },
        "output": _output(spec, request),
        "class_names": None if spec.class_names is None else list(spec.class_names),
    }


def _output(spec: ModelSpec, request: ExportRequest) -> dict[str, Any]:
    """Scores, and of which head; or the embedding of a model that has none."""
    two_heads = Signal.DISTILL_LOGITS in spec.signals
    scores = Signal.LOGITS in spec.signals
    return {
        "name": output_name(spec),
        "dtype": "float32",
        "shape": [BATCH, spec.classes if scores else spec.width],
        "head": (request.head if two_heads else "class") if scores else None,
        "fusion": request.fusion if two_heads and request.head == "fused" else None,
        "meaning": "scores before the softmax; their softmax is the probability of each class"
        if scores
        else "the last layer's embedding, to compare images with or to put a classifier on; there is no class head",
    }


def card(facts: Mapping[str, Any]) -> dict[str, str]:
    """`facts` as texts, for the metadata of a file."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def write_manifest(path: Path, facts: Mapping[str, Any], opset: int, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Write `facts`, software versions, artefacts and the digest of every file of the folder, as the last file."""
    files = sorted(file for file in path.parent.rglob("*") if file.is_file())
    manifest = {
        **facts,
        "software": software(),
        "opset": opset,
        "artifacts": [asdict(artifact) for artifact in artifacts],
        "files": {
            file.relative_to(path.parent).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
            for file in files
        },
    }
    write_json(path, manifest)
    return manifest


def software() -> dict[str, str]:
    """The versions that took part, as far as they are installed."""
    found = {"distillkit": __version__, "python": platform.python_version()}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a GPU build of the runtime goes by another name
            continue
    return found


def sha256(file: Path) -> str:
    """The digest of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
