"""Exported students of every kind, compared with torch, and the files of their bundles."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from timm.utils.model import reparameterize_model

from distillkit.contracts.exporter import Artifact, ExportRequest
from distillkit.contracts.model import Signal
from distillkit.errors import GateError, RunDirectoryError, UnavailableError
from distillkit.models.timm_model import TimmModel
from distillkit.version import __version__
from distillkit_export.export_options import ExportOptions
from distillkit_export.images.gate_images import stand_in
from distillkit_export.onnx import exporter
from distillkit_export.onnx.exporter import OnnxExporter
from distillkit_export.onnx.session import OnnxSession
from distillkit_export.pipeline.export import export_model, export_onnx
from distillkit_export.pipeline.formats import Format
from distillkit_export.pipeline.target import ExportTarget

BOTH = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
FILES = ["bundle.json", "model.onnx", "parity.json", "parity.md", "predict.py", "samples.npz"]
TORCH = f"torch {torch.__version__.partition('+')[0]}, eager, float32, CPU"
RUNTIME = f"onnxruntime {version('onnxruntime')}, CPUExecutionProvider"
KINDS = ("fused", "class", "distill", "softmax", "plain", "convolutional")


def graph_of(result):
    return onnx.load(result.directory / "model.onnx").graph


def operators(result):
    return Counter(node.op_type for node in graph_of(result).node)


def weights(result):
    return sum(int(np.prod(weight.dims)) for weight in graph_of(result).initializer if weight.data_type == 1)


def images_for(model, count=5):
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 3, *model.spec.image_size)).astype(np.float32)


@torch.inference_mode()
def head_outputs(model, images):
    """The outputs of both heads, by timm's own modules and NumPy."""
    network = model.network.eval()
    tokens = network.forward_features(torch.from_numpy(images))
    return network.head(tokens[:, 0]).double().numpy(), network.head_dist(tokens[:, 1]).double().numpy()


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("kind", "fuse"),
    [
        ("fused", lambda first, second: (first + second) / 2),
        ("class", lambda first, _: first),
        ("distill", lambda _, second: second),
        ("softmax", lambda first, second: np.log((softmax(first) + softmax(second)) / 2)),
    ],
)
def test_every_output_of_two_heads(exported, distilled, kind, fuse):
    images = images_for(distilled)
    expected = fuse(*head_outputs(distilled, images))
    for batch in (images, images[:1]):
        scores = OnnxSession(exported[kind].directory / "model.onnx")(batch)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected[: len(batch)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "convolutional"])
def test_one_head_is_exported_whatever_head_is_requested(exported, request, kind):
    model = request.getfixturevalue(kind)
    images = images_for(model)
    with torch.inference_mode():
        expected = model.network.eval()(torch.from_numpy(images)).numpy()
    scores = OnnxSession(exported[kind].directory / "model.onnx")(images)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert exported[kind].manifest["output"]["head"] == "class"
    assert exported[kind].manifest["output"]["fusion"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_parity_is_far_below_its_limit(exported, kind):
    parity = exported[kind].parity
    assert parity.passed
    assert parity.max_relative <= 4.4e-6
    assert list(parity.batches) == [1, 2, 7, 32]
    assert {batch.top1_agreement for batch in parity.batches.values()} == {1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_with_a_dynamic_batch_and_no_traces_of_this_machine(exported, kind):
    folder = exported[kind].directory
    assert sorted(file.name for file in folder.iterdir()) == FILES
    (entry,), (output,) = graph_of(exported[kind]).input, graph_of(exported[kind]).output
    shapes = [
        [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim] for value in (entry, output)
    ]
    assert shapes == [["batch", 3, *exported[kind].manifest["input"]["shape"][2:]], ["batch", 7]]
    assert (entry.name, output.name) == ("images", "logits")
    for file in folder.iterdir():
        for trace in (b"/timm/", b"/torch/", b"site-packages", b"stack_trace", str(folder.parent).encode()):
            assert trace not in file.read_bytes()


def test_vit_keeps_its_fused_operators(exported):
    # Two norms a block and the last one, one Gelu a block.
    assert operators(exported["fused"])["LayerNormalization"] == 5
    assert operators(exported["fused"])["Gelu"] == 2
    assert operators(exported["plain"])["LayerNormalization"] == 3


def test_unused_head_is_not_in_the_graph(exported, distilled):
    names = {kind: {weight.name for weight in graph_of(exported[kind]).initializer} for kind in KINDS}
    one_head = sum(parameter.numel() for parameter in distilled.network.head_dist.parameters())
    assert any("head_dist" in name for name in names["fused"])
    assert not any("head_dist" in name for name in names["class"])
    assert not any(".head." in name for name in names["distill"])
    assert weights(exported["fused"]) - weights(exported["class"]) in range(one_head, one_head + 3)
    assert weights(exported["class"]) == weights(exported["distill"])


def test_branches_are_folded_before_the_export(exported, convolutional):
    blocks = sum(hasattr(module, "reparameterize") for module in convolutional.network.modules())
    assert operators(exported["convolutional"])["Conv"] == blocks
    assert "BatchNormalization" not in operators(exported["convolutional"])


def test_branches_are_folded_in_float64(exported, convolutional):
    folded = reparameterize_model(deepcopy(convolutional.network).double()).float()
    kernels = [module.weight.detach().numpy() for module in folded.modules() if isinstance(module, torch.nn.Conv2d)]
    written = {weight.name: numpy_helper.to_array(weight) for weight in graph_of(exported["convolutional"]).initializer}
    convolutions = [node for node in graph_of(exported["convolutional"]).node if node.op_type == "Conv"]
    for node, kernel in zip(convolutions, kernels, strict=True):
        np.testing.assert_array_equal(written[node.input[1]], kernel)


def test_export_does_not_change_the_model(exported, distilled, convolutional):
    assert exported["fused"].parity.passed
    assert exported["convolutional"].parity.passed
    assert all(block.attn.fused_attn for block in distilled.network.blocks)
    as_made = timm.create_model("repvgg_a0", num_classes=7)
    assert convolutional.network.state_dict().keys() == as_made.state_dict().keys()


def test_manifest_describes_the_model_and_its_files(exported):
    result = exported["fused"]
    manifest = json.loads((result.directory / "bundle.json").read_text())
    assert manifest == result.manifest
    software = manifest.pop("software")
    assert software["distillkit"] == __version__
    assert {"python", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"} < set(software)
    for name, facts in manifest.pop("files").items():
        content = (result.directory / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert manifest == {
        "schema_version": 1,
        "source": {"run": "tonight", "checkpoint": None, "recipe_sha256": "1" * 64, "weights_sha256": "0" * 64},
        "student": {
            "model": "deit-ti",
            "options": {"patch": 8, "depth": 2},
            "architecture": "deit_tiny_distilled_patch16_224",
            "parameters": 67934,
            "licence": "apache-2.0",
            "taught_under": [],
        },
        "teachers": [{"name": "regnety16gf", "architecture": None, "licence": "apache-2.0"}],
        "input": {
            "name": "images",
            "dtype": "float32",
            "layout": "NCHW",
            "shape": ["batch", 3, 32, 48],
            "image_size": [32, 48],
            "multiples": None,
            "color": "RGB",
            "scale": "pixels from 0 to 1, then minus mean, then divided by std, per channel",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "crop": 0.9,
            "orientation": "exif",
            "background": "white",
            "grey16": "refuse",
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["batch", 7],
            "kind": "logits",
            "head": "fused",
            "fusion": "logits",
            "meaning": "scores before the softmax; their softmax is the probability of each class",
        },
        "class_names": ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"],
        "opset": 20,
        "artifacts": [
            {
                "format": "onnx",
                "file": "model.onnx",
                "precision": "fp32",
                "gate": "passed",
                "runtime": RUNTIME,
                "reason": None,
                "made_with": {"tool": "torch.onnx"},
            }
        ],
        "pending": [],
    }


def test_metadata_of_the_file_matches_the_manifest(exported):
    result = exported["fused"]
    metadata = OnnxSession(result.directory / "model.onnx").metadata
    assert set(metadata) == {
        f"distillkit.{key}"
        for key in ("schema_version", "source", "student", "teachers", "input", "output", "class_names")
    }
    assert all(json.loads(value) == result.manifest[key.removeprefix("distillkit.")] for key, value in metadata.items())


def test_parity_file_marks_photographs_as_weak(exported):
    parity = json.loads((exported["class"].directory / "parity.json").read_text())
    assert parity["schema_version"] == 2
    assert parity["reference"] == TORCH
    report = parity["files"]["model.onnx"]
    assert report == {
        "gate": "passed",
        "reason": None,
        "precision": "fp32",
        "runtime": RUNTIME,
        "bytes": (exported["class"].directory / "model.onnx").stat().st_size,
        "kept": True,
        "relative_latency": None,
        "latency_caveats": [],
        "checks": [],
        **exported["class"].parity.as_dict(),
    }
    images = {
        "source": "crops of two photographs that scikit-learn ships, because no images were given",
        "count": 54,
        "weak": True,
    }
    assert report["images"] == parity["images"] == images
    assert report["limits"]["max_relative"] == 1e-4


def test_lines_for_the_terminal(exported):
    result = exported["softmax"]
    size = (result.directory / "model.onnx").stat().st_size / 1e6
    assert 0.2 < size < 0.5
    found = result.parity.overall
    figures = f"{found.max_absolute:.1e}  {result.parity.max_relative:.1e}"
    assert result.lines() == [
        f"{result.directory}: 1 file, opset 20, batch x 3 x 32 x 48 images, both heads fused by softmax",
        "file            size  max abs  max rel  min cosine  SQNR dB  agreement  gate",
        f"model.onnx  {size:.3g} MB  {figures}   1.0000000    {found.sqnr_db:.1f}     100.0%  passed",
        (
            f"measured against {TORCH} on 54 images (crops of two "
            "photographs that scikit-learn ships, because no images were given); weak check: "
            "give real images with --data"
        ),
    ]
    assert json.loads(json.dumps(result.as_dict()))["manifest"]["output"]["fusion"] == "softmax"


def test_file_agrees_in_a_process_that_has_no_torch(exported, distilled, tmp_path):
    images = images_for(distilled, count=3)
    first, second = head_outputs(distilled, images)
    np.savez(tmp_path / "expected.npz", images=images, expected=(first + second) / 2)
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "timm", "onnx")))
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(exported["fused"].directory / "model.onnx")!r})
stored = np.load({str(tmp_path / "expected.npz")!r})
(scores,) = session.run(None, {{"images": stored["images"]}})
print(np.abs(scores - stored["expected"]).max() / np.abs(stored["expected"]).max())
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(finished.stdout) <= 4.4e-6


class BranchingNetwork(torch.nn.Module):
    """A classifier with control flow that depends on the pixels."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 7)

    def forward(self, images):
        pooled = images.mean(dim=(2, 3))
        return self.head(pooled) if pooled.sum() > 0 else self.head(-pooled)


def test_model_that_cannot_be_traced_is_one_error_line(plain, tmp_path, capfd):
    model = TimmModel(BranchingNetwork(), replace(plain.spec, signals=frozenset({Signal.LOGITS})), {})
    with pytest.raises(UnavailableError) as error:
        export_onnx(model, tmp_path / "export")
    assert str(error.value).startswith(
        "model 'student' (vit_tiny_patch16_224) cannot be exported to ONNX with opset 20: "
    )
    assert str(error.value).endswith("its forward pass must be traceable by torch.export with a dynamic batch")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_model_too_large_for_one_file_is_refused_before_the_export(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "LARGEST_BYTES", 100)
    size = 4 * plain.spec.parameters
    with pytest.raises(UnavailableError) as error:
        export_onnx(plain, tmp_path / "export")
    assert str(error.value) == (
        f"model 'student' has {size:,} bytes of float32 weights and one ONNX file holds 100; export a smaller student"
    )


class WrongExporter(OnnxExporter):
    """A faulty exporter that writes the output of another head."""

    wrong = ""

    def write(self, source, directory, precision):
        shutil.copy(self.wrong, directory / "model.onnx")
        return Artifact("onnx", "model.onnx")


def test_failed_gate_keeps_the_files_in_rejected(exported, distilled, tmp_path):
    exporter = WrongExporter(OnnxExporter.Options())
    exporter.wrong = exported["class"].directory / "model.onnx"
    form, target = Format("onnx", exporter, exporter.options), tmp_path / "export"
    model = ExportTarget(distilled, ExportRequest(), lambda: stand_in(distilled.spec, "x"))
    with pytest.raises(GateError) as error:
        export_model([form], model, target, ExportOptions())
    assert error.value.exit_code == 4
    kept = json.loads((target / "rejected" / "parity.json").read_text())["files"]["model.onnx"]
    worst = max(kept["batches"], key=lambda batch: batch["max_relative"])
    assert (kept["gate"], kept["passed"]) == ("failed", False)
    assert kept["failures"][0] == (
        f"differs from torch by {worst['max_relative']:.2g} of the largest score at batch {worst['batch']} "
        "(limit 0.0001)"
    )
    assert str(error.value) == (
        f"model.onnx {'; '.join(kept['failures'])}; the files are kept in '{target / 'rejected'}'"
    )
    assert sorted(file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()) == [
        "rejected/model.onnx",
        "rejected/parity.json",
        "rejected/parity.md",
    ]


def test_folder_in_use_is_refused_before_the_export(exported, plain):
    folder = exported["plain"].directory
    with pytest.raises(RunDirectoryError) as error:
        export_onnx(plain, folder)
    assert (
        str(error.value)
        == f"folder '{folder}' already contains an export; give another folder, or --force to replace it"
    )
