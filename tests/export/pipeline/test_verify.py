"""`verify`: digests, then the gate, in a process without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from distillkit.contracts.exporter import ExportRequest
from distillkit.errors import BundleError, DataError, GateError, UnavailableError
from distillkit.plugin.registry import PluginRegistry
from distillkit.storage.atomic import sha256
from distillkit_export.bundle.manifest import FileCard
from distillkit_export.export_options import ExportOptions
from distillkit_export.images.gate_images import photographs
from distillkit_export.onnx.session import OnnxSession
from distillkit_export.pipeline.export import export_onnx
from distillkit_export.pipeline.verify import verify
from tests.bf16_cpu import require_bf16


@pytest.fixture(scope="module")
def exported_bundle(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified") / "bundle"
    pixels = photographs(plain.spec, "x").pixels
    export_onnx(plain, folder, ExportRequest(opset=22), pixels, ExportOptions(bf16=True, int8=True))
    return folder


@pytest.fixture
def bundle(exported_bundle, tmp_path):
    shutil.copytree(exported_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def only_onnxruntime(plugins) -> PluginRegistry:
    """The plugins, with onnxruntime-cpu as the only runtime."""

    class OneRuntime(PluginRegistry):
        def listing(self, role):
            found = super().listing(role)
            return tuple(each for each in found if role != "runtime" or each.spec.name == "onnxruntime-cpu")

    return OneRuntime(plugins._discovered)


def rewrite(folder, file, change):
    """Change an ONNX file and update its digest."""
    model = onnx.load(folder / file)
    change(model)
    onnx.save(model, folder / file)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"][file] = FileCard(sha256=sha256(folder / file), bytes=(folder / file).stat().st_size).model_dump()
    (folder / "bundle.json").write_text(json.dumps(manifest))


def other_head(model):
    for entry in model.graph.initializer:
        if entry.name.startswith("model.network.head."):
            entry.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(entry), entry.name))


def test_file_that_no_runtime_executes_stays_ungated(bundle, only_onnxruntime):
    before = (bundle / "bundle.json").read_bytes()
    found = verify(bundle, plugins=only_onnxruntime)
    assert {each.artifact.precision: each.outcome for each in found.verdicts} == {
        "fp32": "passed",
        "bf16": "ungated",
        "int8": "passed",
    }
    with pytest.raises(UnavailableError) as error:
        found.require()
    assert str(error.value) == (
        "model.bf16.onnx was not gated: CPUExecutionProvider cannot execute it: Could not find an implementation for "
        "Conv(22) node with name 'patch_embed.proj/Conv'"
    )
    assert (bundle / "bundle.json").read_bytes() == before


def test_ungated_file_that_passes_is_recorded_with_its_runtime(bundle, plugins):
    require_bf16()
    found = verify(bundle, plugins=plugins)
    found.require()
    assert found.recorded == ("model.bf16.onnx",)
    card = json.loads((bundle / "bundle.json").read_text())["artifacts"][1]
    assert (card["file"], card["gate"], card["reason"]) == ("model.bf16.onnx", "passed", None)
    assert card["runtime"].startswith("openvino ")
    assert found.lines()[-1] == (
        f"model.bf16.onnx was ungated and has passed in {card['runtime']}; recorded in bundle.json"
    )
    assert verify(bundle, plugins=plugins).recorded == ()


def test_altered_file_is_refused_before_anything_is_executed(bundle, plugins, monkeypatch):
    monkeypatch.setattr("distillkit_export.pipeline.verify._gate_file", None)
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError) as error:
        verify(bundle, plugins=plugins)
    assert error.value.exit_code == 2
    assert str(error.value) == (
        "model.onnx does not match the SHA-256 in bundle.json: it was altered or truncated after the export; "
        "copy or export the bundle again"
    )


def test_file_with_other_outputs_fails_and_names_the_layer(bundle, only_onnxruntime):
    rewrite(bundle, "model.int8.onnx", other_head)
    found = verify(bundle, plugins=only_onnxruntime)
    with pytest.raises(GateError) as error:
        found.require()
    assert error.value.exit_code == 4
    parity = found.verdicts[2].parity
    assert str(error.value) == (
        f"model.int8.onnx {'; '.join(parity.failures())}; the first layer that differs is head/Gemm (-6.0 dB)"
    )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_file_of_another_precision_fails_although_its_outputs_are_right(bundle, only_onnxruntime, precision):
    file = f"model.{precision}.onnx"
    shutil.copyfile(bundle / "model.onnx", bundle / file)
    rewrite(bundle, file, lambda model: None)
    found = verify(bundle, plugins=only_onnxruntime)
    with pytest.raises(GateError) as error:
        found.require()
    assert error.value.exit_code == 4
    assert str(error.value) == f"{file} is fp32, but bundle.json says {precision}"


def test_bundle_without_samples_is_refused(bundle, plugins):
    manifest = json.loads((bundle / "bundle.json").read_text())
    del manifest["files"]["samples.npz"]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as error:
        verify(bundle, plugins=plugins)
    assert str(error.value) == (
        f"bundle '{bundle}' has no file 'samples.npz'; its bundle.json lists the files that it has"
    )


@pytest.fixture
def labelled(exported_bundle, plain, tmp_path):
    """Images in the folders of the classes that the float32 file predicts, except for one."""
    session = OnnxSession(exported_bundle / "model.onnx")
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
        mean, std = np.array(plain.spec.mean), np.array(plain.spec.std)
        image = ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        predicted = int(session(image).argmax())
        name = plain.spec.class_names[predicted if number else (predicted + 1) % 7]
        (tmp_path / "images" / "test" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / "test" / name / f"{number}.png")
    (tmp_path / "images" / "train").mkdir()
    return tmp_path / "images"


def test_accuracy_is_measured_on_labelled_images(bundle, labelled, only_onnxruntime):
    found = verify(bundle, plugins=only_onnxruntime, data=labelled)
    scored = found.on_data[0].parity.accuracy
    assert (scored.images, scored.file) == (6, pytest.approx(100 * 5 / 6))
    assert [each.artifact.precision for each in found.on_data] == ["fp32", "int8"]
    assert found.data.images.source == "images in test/"
    assert found.as_dict()["data"]["model.int8.onnx"]["accuracy"]["images"] == 6


def test_folder_of_other_classes_is_refused(bundle, tmp_path, plugins):
    (tmp_path / "other" / "yak").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "other" / "yak" / "1.png")
    with pytest.raises(DataError) as error:
        verify(bundle, plugins=plugins, data=tmp_path / "other")
    assert str(error.value) == (
        f"no folder in '{tmp_path / 'other'}' has the name of a class of the bundle (ant, bee, cat, ...); "
        "give a folder per class"
    )


def test_folders_that_are_not_classes_are_refused_and_named(bundle, labelled, plugins):
    root = labelled / "test"
    for name in ("yak", "zebra", "owl", "pig"):
        (root / name).mkdir()
        Image.new("RGB", (40, 40)).save(root / name / "1.png")
    known = "not among the classes of the bundle (ant, bee, cat, ...); give a folder per class and nothing else"
    with pytest.raises(DataError) as error:
        verify(bundle, plugins=plugins, data=labelled, images=1)
    assert str(error.value) == f"'{root}' contains owl, pig, yak and 1 more, {known}"
    for name in ("yak", "zebra", "owl", "pig"):
        shutil.rmtree(root / name)
    Image.new("RGB", (40, 40)).save(root / "loose.png")
    with pytest.raises(DataError) as error:
        verify(bundle, plugins=plugins, data=labelled)
    assert str(error.value) == f"'{root}' contains loose.png, {known}"


def test_target_needs_neither_torch_nor_timm_nor_onnx(bundle):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "timm", "onnx", "openvino")))
from distillkit_cli.main import command_line
print(command_line(["verify", {str(bundle)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == f"{bundle}: every file matches its SHA-256"
    assert done.stdout.splitlines()[-1] == "3"
    assert done.stderr.startswith("error: model.bf16.onnx was not gated: CPUExecutionProvider cannot execute it")


def test_a_changed_script_is_named_and_changes_no_verdict(bundle, only_onnxruntime):
    (bundle / "predict.py").write_text("print('mine')")
    (bundle / "parity.md").unlink()
    result = verify(bundle, plugins=only_onnxruntime)
    assert {verdict.artifact.file for verdict in result.verdicts if verdict.outcome == "passed"} >= {"model.onnx"}
    assert result.lines()[0] == f"{bundle}: every file that is used matches its SHA-256"
    assert result.lines()[-1] == "changed since the export, which changes no answer: parity.md, predict.py"
    assert result.as_dict()["changed"] == ["parity.md", "predict.py"]


def test_the_float32_file_is_the_reference_wherever_it_is_listed(bundle, only_onnxruntime, write_pictures, tmp_path):
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["artifacts"].reverse()
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    names = manifest["class_names"] or ["a", "b"]
    data = tmp_path / "data"
    write_pictures(data, dict.fromkeys(names[:2], 2))
    result = verify(bundle, plugins=only_onnxruntime, data=data)
    assert [verdict.artifact.file for verdict in result.verdicts] == [
        "model.onnx",
        "model.int8.onnx",
        "model.bf16.onnx",
    ]
    assert result.data.name.startswith("model.onnx, ")
