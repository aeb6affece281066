"""`distillkit predict`: predictions, unreadable images, written arrays and errors."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import ModelSpec, Signal
from distillkit_export.bundle.manifest import ArtifactCard, describe, write_manifest

NAMES = ("red", "green", "blue\x1b[2J")

TRUNCATED = (
    "image 'shots/truncated.png' cannot be read: cannot identify image file 'shots/truncated.png', although its first "
    "bytes are those of one"
)


def write_bundle(folder, *, signals=(Signal.LOGITS,), gate="passed"):
    """A bundle whose logits are the channel means, so that a red image has class red."""
    spec = ModelSpec(
        name="means",
        architecture="hand-made",
        kind="other",
        classes=3,
        class_names=NAMES,
        image_size=(4, 4),
        widths=(3,),
        mean=(0.0,) * 3,
        std=(0.25,) * 3,
        signals=frozenset(signals),
    )
    folder.mkdir()
    facts = describe(spec, ExportRequest())
    nodes = [helper.make_node("ReduceMean", ["images", "axes"], [facts.output.name], keepdims=0)]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])
    answer = helper.make_tensor_value_info(facts.output.name, TensorProto.FLOAT, ["batch", 3])
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    graph = helper.make_graph(nodes, "g", [images], [answer], [axes])
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    card = ArtifactCard(format="onnx", file="model.onnx", precision="fp32", gate=gate, made_with={})
    write_manifest(folder, facts, 20, [card])


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory, with bundle 'b' and images."""
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "b")
    (tmp_path / "shots").mkdir()
    Image.new("RGB", (9, 7), (255, 0, 0)).save(tmp_path / "shots" / "a.png")
    Image.new("RGB", (7, 9), (0, 0, 255)).save(tmp_path / "shots" / "b.png")
    (tmp_path / "shots" / "truncated.png").write_bytes(b"\x89PNG")
    return tmp_path


# Softmax of 4, 0, 0: 54.598 of 56.598.
RED = ["shots/a.png", "   96.5%  red", "    1.8%  green", "    1.8%  blue?[2J"]


def test_top_classes_are_shown_best_first(distillkit):
    assert distillkit("predict", "b", "shots/a.png") == (0, "\n".join(RED) + "\n", "")
    assert distillkit("predict", "b", "shots/a.png", "--top", "1") == (0, "\n".join(RED[:2]) + "\n", "")


def test_unreadable_images_are_listed_and_the_others_classified(distillkit):
    code, out, err = distillkit("predict", "b", "shots", "missing.png", "--top", "1", "--batch", "1")
    assert code == 2
    assert out.splitlines() == [*RED[:2], "shots/b.png", "   96.5%  blue?[2J"]
    assert err.splitlines() == [
        f"error: {TRUNCATED}",
        "error: image 'missing.png' does not exist",
        "error: 2 of 4 images could not be read; the other 2 were classified",
    ]


def test_files_of_a_folder_that_are_not_images_are_counted(distillkit, place):
    (place / "shots" / "truncated.png").unlink()
    (place / "shots" / "a.png").rename(place / "shots" / "a.jpe")
    (place / "shots" / "c.heic").write_bytes(b"")
    code, out, err = distillkit("predict", "b", "shots", "--top", "1")
    assert (code, err) == (0, "left out: 1 HEIF image (1 .heic), which Pillow cannot read: convert it to JPEG\n")
    assert out.splitlines() == ["shots/a.jpe", RED[1], "shots/b.png", "   96.5%  blue?[2J"]
    assert json.loads(distillkit("predict", "b", "shots", "--json").out)["left_out"] == {".heic": 1}


def test_single_unreadable_image_is_one_error(distillkit):
    assert distillkit("predict", "b", "missing.png") == (2, "", "error: image 'missing.png' does not exist\n")


def test_json_lists_predictions_and_failures(distillkit):
    code, out, err = distillkit("predict", "b", "shots/*.png", "--json", "--top", "2")
    share = pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)
    rest = pytest.approx(1 / (np.exp(4) + 2), rel=1e-5)
    assert code == 2
    assert json.loads(out) == {
        "file": "model.onnx",
        "precision": "fp32",
        "runtime": "onnxruntime-cpu",
        "images": [
            {
                "image": "shots/a.png",
                "top": [{"class": "red", "probability": share}, {"class": "green", "probability": rest}],
            },
            {
                "image": "shots/b.png",
                "top": [{"class": NAMES[2], "probability": share}, {"class": "red", "probability": rest}],
            },
        ],
        "failed": [TRUNCATED],
        "left_out": {},
    }
    assert err.splitlines()[-1] == "error: 1 of 3 images could not be read; the other 2 were classified"


def test_out_writes_all_probabilities(distillkit, place):
    code, _, err = distillkit("predict", "b", "shots/b.png", "shots/a.png", "--out", "p.npy")
    assert (code, err) == (0, "p.npy: array of 2 x 3, in the order of the images\n")
    written = np.load(place / "p.npy")
    assert (written.dtype, written.shape, written.argmax(axis=1).tolist()) == (np.float32, (2, 3), [2, 0])


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("b/model.onnx", "--out b/model.onnx must end in .npy: it holds a NumPy array"),
        ("p", "--out p must end in .npy: it holds a NumPy array"),
        ("b/p.npy", "--out b/p.npy is inside bundle 'b', which must not change; choose another folder"),
        ("link/p.npy", "--out link/p.npy is inside bundle 'b', which must not change; choose another folder"),
        ("folder.npy", "--out folder.npy is a folder; give a file that ends in .npy"),
        (f"{'n' * 252}.npy", f"--out {'n' * 252}.npy cannot be written: File name too long; give another file"),
        ("shots/a.png/p.npy", "--out shots/a.png/p.npy cannot be written: 'shots/a.png' is a file; give another file"),
        ("no/p.npy", "--out no/p.npy cannot be written: folder 'no' does not exist; create it first"),
    ],
)
def test_invalid_out_is_an_error_before_predicting(distillkit, place, out, sentence):
    (place / "folder.npy").mkdir()
    (place / "link").symlink_to("b")
    before = {file: file.read_bytes() for file in (place / "b").iterdir()}
    assert distillkit("predict", "b", "shots/a.png", "--out", out) == (2, "", f"error: {sentence}\n")
    assert {file: file.read_bytes() for file in (place / "b").iterdir()} == before


def test_batch_above_the_limit_is_a_usage_error(distillkit):
    assert distillkit("predict", "b", "shots/a.png", "--batch", str(10**23)) == (
        2,
        "",
        (
            "error: invalid value for '--batch': Input should be less than or equal to 4096 "
            "(see distillkit predict --help)\n"
        ),
    )


def test_out_writes_embeddings(distillkit, place):
    write_bundle(place / "e", signals=())
    assert distillkit("predict", "e", "shots/a.png") == (
        2,
        "",
        (
            "error: bundle 'e' has no class head, so it cannot classify; give --out FILE.npy for the "
            "embeddings of the images\n"
        ),
    )
    code, out, err = distillkit("predict", "e", "shots/a.png", "--out", "e.npy", "--json")
    assert (code, err) == (0, "e.npy: array of 1 x 3, in the order of the images\n")
    assert json.loads(out)["images"] == [{"image": "shots/a.png"}]
    np.testing.assert_allclose(np.load(place / "e.npy"), [[4, 0, 0]])


def test_ungated_file_is_noted(distillkit, place):
    write_bundle(place / "u", gate="ungated")
    code, _, err = distillkit("predict", "u", "shots/a.png")
    assert (code, err) == (0, "model.onnx was never compared with torch; run `distillkit verify u`\n")


def test_damaged_and_missing_bundles_are_errors(distillkit, place):
    (place / "b" / "model.onnx").write_bytes(b"")
    code, out, err = distillkit("predict", "b", "shots/a.png")
    assert (code, out) == (2, "")
    assert err.startswith("error: model.onnx has 0 bytes, but bundle.json says ")
    code, _, err = distillkit("predict", "nowhere", "shots/a.png")
    assert (code, err) == (
        2,
        "error: bundle 'nowhere' does not exist; give a folder that `distillkit export` wrote\n",
    )


def test_missing_runtime_exits_with_3(distillkit, monkeypatch):
    from distillkit.contracts.runtime import Availability
    from distillkit_export.runtimes.onnxruntime_cpu import OnnxRuntimeCpu

    gone = Availability(works=False, detail="onnxruntime is not installed", remedy='pip install "distillkit[runtime]"')
    monkeypatch.setattr(OnnxRuntimeCpu, "availability", lambda runtime: gone)
    assert distillkit("predict", "b", "shots/a.png", "--runtime", "onnxruntime-cpu") == (
        3,
        "",
        (
            "error: runtime 'onnxruntime-cpu' does not work here: onnxruntime is not installed; "
            'pip install "distillkit[runtime]"\n'
        ),
    )
