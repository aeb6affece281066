"""Images of the gate and of calibration from --data, and the classes of their labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import DataError
from distillkit_export.export_options import ExportOptions
from distillkit_export.images.run_images import ReadPixels, named_images
from distillkit_export.pipeline.export import export

SPEC = ModelSpec(
    name="student",
    architecture="student",
    kind="vit",
    classes=2,
    class_names=("bee", "ant"),
    signals=frozenset({Signal.LOGITS}),
    image_size=(8, 8),
    crop=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def draw(folder, shades):
    folder.mkdir(parents=True)
    for shade in shades:
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(folder / f"{shade:03}.png")


def shades(images):
    pixels = images.pixels[np.arange(len(images.pixels))]
    return [round(float(value) * 255) for value in pixels[:, 0, 0, 0]]


@pytest.fixture
def split(tmp_path):
    draw(tmp_path / "train" / "ant", range(10))
    draw(tmp_path / "train" / "bee", range(10, 20))
    draw(tmp_path / "test" / "ant", range(100, 103))
    draw(tmp_path / "test" / "bee", range(200, 203))
    return tmp_path


def test_gate_uses_the_test_images_and_calibration_the_training_images(split, plugins):
    options = ExportOptions(data=str(split), gate_images="all", calibration_images=4, int8=True)
    found = named_images(SPEC, plugins, options)
    assert shades(found.gate) == [100, 101, 102, 200, 201, 202]
    assert shades(found.calibration) == [0, 6, 12, 19]
    assert found.gate.source == f"test images of '{split.name}'"
    assert found.calibration.source == f"training images of '{split.name}'"
    assert not found.gate.weak
    assert found.gate.note == ""


def test_labels_are_matched_to_the_models_classes_by_name(split, plugins):
    found = named_images(SPEC, plugins, ExportOptions(data=str(split)))
    assert found.gate.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_images_of_other_classes_have_no_label(split, plugins):
    found = named_images(replace(SPEC, class_names=("cat", "dog")), plugins, ExportOptions(data=str(split)))
    assert found.gate.labels is None
    assert found.gate.note == (
        f"accuracy is not measured: the classes of test images of '{split.name}' (ant, bee) are not those of the model "
        "(cat, dog); give a folder for each class of the model"
    )


def test_unlabelled_images_are_used_for_gate_and_calibration(tmp_path, plugins):
    """A student trained without labels is gated on training images; calibration uses the other ones."""
    draw(tmp_path / "flat", range(10))
    found = named_images(SPEC, plugins, ExportOptions(data=str(tmp_path / "flat"), gate_images=4))
    assert (found.gate.source, found.gate.weak) == ("images of 'flat'", False)
    assert found.gate.labels is None
    assert sorted(shades(found.gate) + shades(found.calibration)) == list(range(10))


@pytest.mark.parametrize("named", ["{0}", "{0}/", "folder:{0}", "{0}/../test"])
def test_given_folder_is_named_without_its_path(split, plugins, named):
    found = named_images(SPEC, plugins, ExportOptions(data=named.format(split / "test")))
    assert found.gate.source == "images of 'test'"
    assert found.calibration.source == "images of 'test'"


def test_no_file_of_a_bundle_names_a_folder_of_this_machine(split, plugins, tmp_path):
    data = str(split / "test")
    options = ExportOptions(fp16=True, int8=True, data=data, weights="none", image_size=(32, 32))
    out = tmp_path / "out"
    export("timm:test_vit", out, options, plugins=plugins)
    files = [file for file in out.rglob("*") if file.is_file()]
    assert {"bundle.json", "parity.json", "parity.md", "model.int8.onnx"} <= {file.name for file in files}
    assert [file.name for file in files if str(tmp_path).encode() in file.read_bytes()] == []
    assert "on 6 images (images of 'test')" in (out / "parity.md").read_text()


def test_many_images_are_read_lazily(split, plugins, monkeypatch):
    monkeypatch.setattr("distillkit_export.images.run_images.IN_MEMORY_BYTES", 0)
    found = named_images(SPEC, plugins, ExportOptions(data=str(split)))
    assert isinstance(found.gate.pixels, ReadPixels)
    assert len(found.gate.pixels) == 6
    assert shades(found.gate) == [100, 101, 102, 200, 201, 202]


@pytest.mark.parametrize(("orientation", "expected"), [("exif", 0), ("stored", 255)])
def test_images_of_gate_and_calibration_are_turned_as_the_model_expects(tmp_path, plugins, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(4):
            image = Image.new("L", (8, 8))
            image.paste(255, (0, 0, 8, 4))
            image.save(tmp_path / name / f"{number}.png", exif=exif)
    spec = replace(SPEC, orientation=orientation)
    found = named_images(spec, plugins, ExportOptions(data=str(tmp_path), gate_images=2))
    assert set(shades(found.gate)) == set(shades(found.calibration)) == {expected}


def test_unreadable_images_are_left_out_and_counted(split, plugins, monkeypatch):
    (split / "test" / "ant" / "101.png").write_bytes(b"")
    (split / "train" / "ant" / "006.png").write_bytes(b"")
    options = ExportOptions(data=str(split), gate_images="all", calibration_images=4, int8=True)
    for in_memory in (2**20, 0):
        monkeypatch.setattr("distillkit_export.images.run_images.IN_MEMORY_BYTES", in_memory)
        found = named_images(SPEC, plugins, options)
        assert shades(found.gate) == [100, 102, 200, 201, 202]
        assert found.gate.labels.tolist() == [1, 1, 0, 0, 0]
        assert shades(found.calibration) == [0, 12, 19]
        assert found.gate.source == f"test images of '{split.name}', without 1 that cannot be read"
    for path in (split / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^image 'bee/202.png' of '.*' cannot be read: the file has no bytes"):
        named_images(SPEC, plugins, ExportOptions(data=str(split)))
