"""Predictor: every kind of output, the choice of runtime and precision, and predict.py."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_images

import distillkit_export
from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import ModelSpec, Signal
from distillkit.contracts.runtime import Availability
from distillkit.errors import BundleError, DataError, UnavailableError, UnknownPluginError
from distillkit_export import load
from distillkit_export.bundle.manifest import ArtifactCard, describe, write_manifest
from distillkit_export.bundle.predict_script import predict_script, write_predict_script
from distillkit_export.predictor import softmax
from tests.data.planted import IRREGULAR

PHOTOGRAPH = Image.fromarray(load_sample_images().images[0]).crop((0, 0, 300, 200))
SPEC = ModelSpec(
    name="means",
    architecture="hand-made",
    kind="other",
    classes=3,
    class_names=("red", "green", "blue"),
    image_size=(4, 6),
    widths=(3,),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.25, 0.2),
    signals=frozenset({Signal.LOGITS}),
)
KINDS = {
    "logits": (SPEC, ExportRequest()),
    "probabilities": (SPEC, ExportRequest(softmax=True)),
    "embedding": (replace(SPEC, signals=frozenset(), class_names=None), ExportRequest()),
    "uint8": (SPEC, ExportRequest(uint8=True)),
    "nameless": (replace(SPEC, class_names=None), ExportRequest()),
}


def graph(facts):
    """An ONNX model whose output is ten times the mean of each channel."""
    entry, output = facts.input, facts.output
    kind = TensorProto.UINT8 if entry.dtype == "uint8" else TensorProto.FLOAT
    axes = [1, 2] if entry.layout == "NHWC" else [2, 3]
    nodes = [
        helper.make_node("Cast", [entry.name], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ten"], ["scaled" if output.kind == "probabilities" else output.name]),
    ]
    if output.kind == "probabilities":
        nodes.append(helper.make_node("Softmax", ["scaled"], [output.name]))
    constants = [
        numpy_helper.from_array(np.array(axes), "axes"),
        numpy_helper.from_array(np.float32(0.01 if entry.dtype == "uint8" else 10), "ten"),
    ]
    ends = (
        [helper.make_tensor_value_info(entry.name, kind, entry.shape)],
        [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, output.shape)],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(helper.make_graph(nodes, "g", *ends, constants), opset_imports=[opset], ir_version=10)


@pytest.fixture
def handmade(tmp_path):
    """`handmade("uint8")` is the folder of a bundle of that kind."""

    def make(kind, gate="passed"):
        folder = tmp_path / kind
        folder.mkdir()
        facts = describe(*KINDS[kind])
        onnx.save(graph(facts), folder / "model.onnx")
        write_predict_script(folder, facts)
        card = ArtifactCard(format="onnx", file="model.onnx", precision="fp32", gate=gate, made_with={})
        write_manifest(folder, facts, 20, [card])
        return folder

    return make


def means(image):
    """Ten times the mean of each channel of the centre crop, by hand: 200 x 300 pixels to 4 x 6 ÷ 0.875, floored."""
    small = image.resize((round(300 / (200 / 4)), 4), Image.Resampling.BICUBIC)
    assert small.size == (6, 4)
    pixels = np.asarray(small).reshape(-1, 3) / 255
    return 10 * ((pixels - SPEC.mean) / SPEC.std).mean(axis=0)


def test_logits_become_probabilities(handmade):
    (answer,) = load(handmade("logits"))([PHOTOGRAPH])
    scores = means(PHOTOGRAPH)
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(answer.scores, expected, rtol=1e-5)
    best = np.argsort(-expected)
    assert answer.image == "0"
    assert [name for name, _ in answer.top(2)] == [SPEC.class_names[index] for index in best[:2]]
    assert [share for _, share in answer.top()] == pytest.approx(sorted(expected, reverse=True), rel=1e-5)


def test_probabilities_stay_as_they_are(handmade):
    folders = handmade("logits"), handmade("probabilities")
    logits, shares = (load(folder)([PHOTOGRAPH])[0].scores for folder in folders)
    np.testing.assert_allclose(logits, shares, rtol=1e-5)


def test_embeddings_stay_as_they_are(handmade):
    predictor = load(handmade("embedding"))
    assert predictor.embeds
    np.testing.assert_allclose(predictor([PHOTOGRAPH])[0].scores, means(PHOTOGRAPH), rtol=1e-4)


def test_a_file_that_normalises_gets_uint8_pixels(handmade):
    (answer,) = load(handmade("uint8"))([PHOTOGRAPH])
    pixels = np.asarray(PHOTOGRAPH.resize((6, 4), Image.Resampling.BICUBIC)).reshape(-1, 3)
    np.testing.assert_allclose(answer.scores, softmax(0.01 * pixels.mean(axis=0, dtype=np.float32)[None])[0], rtol=1e-5)


def test_classes_without_names_have_numbers(handmade):
    (answer,) = load(handmade("nameless"))([PHOTOGRAPH])
    assert sorted(name for name, _ in answer.top()) == ["class 0", "class 1", "class 2"]


def test_paths_pillow_images_and_arrays_give_the_same_prediction(handmade, tmp_path):
    PHOTOGRAPH.save(tmp_path / "p.png")
    given = [
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        PHOTOGRAPH,
        np.asarray(PHOTOGRAPH),
        PHOTOGRAPH.convert("RGBA"),
    ]
    answers = load(handmade("logits"))(given, batch=2)
    assert [answer.image for answer in answers] == [str(tmp_path / "p.png")] * 2 + ["2", "3", "4"]
    for answer in answers:
        np.testing.assert_array_equal(answer.scores, answers[0].scores)


def test_an_invalid_image_raises_or_is_passed_to_on_bad(handmade):
    predictor = load(handmade("logits"))
    message = (
        "an array of shape [3, 9, 9] and type float32 is not an image; give pixels [H, W, 3] or [H, W] of type uint8, "
        "with the channels last: array.transpose(1, 2, 0)"
    )
    bad = np.zeros((3, 9, 9), np.float32)
    with pytest.raises(DataError) as refused:
        predictor([bad])
    assert str(refused.value) == message
    kept = []
    answers = list(predictor.stream([PHOTOGRAPH, bad, PHOTOGRAPH], 2, kept.append))
    assert [answer.image for answer in answers] == ["0", "2"]
    assert [str(error) for error in kept] == [message]


@pytest.mark.parametrize("form", ["path", "string", "Pillow", "array", "grey array"])
def test_a_single_image_gets_one_prediction(handmade, tmp_path, form):
    PHOTOGRAPH.save(tmp_path / "p.png")
    forms = {
        "path": tmp_path / "p.png",
        "string": str(tmp_path / "p.png"),
        "Pillow": PHOTOGRAPH,
        "array": np.asarray(PHOTOGRAPH),
        "grey array": np.asarray(PHOTOGRAPH.convert("L")),
    }
    predictor = load(handmade("logits"))
    (answer,) = predictor(forms[form])
    np.testing.assert_array_equal(answer.scores, predictor([forms[form]])[0].scores)


def test_a_batch_in_one_array_gets_a_prediction_per_image(handmade):
    predictor = load(handmade("logits"))
    assert len(predictor(np.stack([np.asarray(PHOTOGRAPH)] * 3))) == 3
    assert len(predictor(np.stack([np.asarray(PHOTOGRAPH.convert("L"))] * 2))) == 2


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_an_open_image_that_would_be_clipped_is_refused_as_its_file_is(handmade, tmp_path, mode):
    types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(np.arange(5400).reshape(60, 90).astype(types[mode]))
    image.save(tmp_path / "deep.tif")
    predictor = load(handmade("logits"))
    scaled = "" if mode == "F" else ", or train with data.grey16=scale, which scales 16-bit grey"
    sentence = f"pixels of mode '{mode}' would be clipped to 8 bits; convert it to 8 bits{scaled}"
    for given, beginning in (
        (image, "the image cannot be used"),
        (tmp_path / "deep.tif", f"image '{tmp_path}/deep.tif' cannot be read"),
    ):
        with pytest.raises(DataError) as refused:
            predictor([given])
        assert str(refused.value) == f"{beginning}: {sentence}"


def test_what_is_not_an_image_is_passed_to_on_bad(handmade):
    kept = []
    images = [None, PHOTOGRAPH, b"\x89PNG", Image.new("RGB", (0, 4))]
    answers = list(load(handmade("logits")).stream(images, 2, kept.append))
    assert [answer.image for answer in answers] == ["1"]
    assert [str(error).partition(";")[0] for error in kept] == [
        "None is not an image",
        "an object of type bytes is not an image",
        "the image cannot be used: it has no pixels",
    ]


def test_no_images_give_no_predictions(handmade):
    assert load(handmade("logits"))([]) == []


def test_the_softmax_of_large_scores_is_finite():
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4], [-1e4, 1e4]], np.float32)), [[0.5, 0.5], [0, 1]])


class ThirdParty:
    """A runtime for a format that no exporter writes."""

    formats = ("npz",)

    def availability(self):
        return Availability(works=False, detail="no reader is installed", remedy="pip install reader")

    def settings(self):
        return ({},)


class Absent(ThirdParty):
    formats = ("onnx",)


class NoKernel(Absent):
    """Available, but without a kernel for this file."""

    def availability(self):
        return Availability(works=True, detail="here")

    def open(self, servable, setting):
        raise UnavailableError("no kernel for Conv")


class Constant(NoKernel):
    def open(self, servable, setting):
        return lambda images: np.zeros((len(images), 3), np.float32)


@pytest.fixture
def only(registry_of):
    """`only(mine=Mine)`: a registry with only these runtimes."""
    return lambda **runtimes: registry_of("runtime", runtimes)


def refusal(error, folder, **chosen):
    with pytest.raises(error) as refused:
        load(folder, **chosen)
    return str(refused.value).replace(str(folder), "b")


def test_runtimes_that_cannot_execute_a_file_have_a_reason(handmade, only):
    folder = handmade("logits")
    assert refusal(UnknownPluginError, folder, runtime="onnxruntime-cpus").startswith(
        "unknown runtime 'onnxruntime-cpus'; did you mean 'onnxruntime-cpu'?"
    )
    found = only(npz=ThirdParty, absent=Absent)
    assert refusal(UnavailableError, folder, runtime="npz", plugins=found) == (
        "runtime 'npz' loads npz, but bundle 'b' has no such file in fp32; it has onnx fp32"
    )
    assert refusal(UnavailableError, folder, runtime="absent", plugins=found) == (
        "runtime 'absent' does not work here: no reader is installed; pip install reader"
    )
    assert refusal(UnavailableError, folder, plugins=found) == (
        "no runtime on this machine can execute bundle 'b' in fp32: absent: no reader is installed (pip install reader)"
    )
    assert refusal(UnavailableError, folder, plugins=only(no_kernel=NoKernel)) == (
        "no runtime on this machine can execute bundle 'b' in fp32: no_kernel: no kernel for Conv"
    )
    assert load(folder, plugins=only(absent=Absent, no_kernel=NoKernel, constant=Constant)).runtime == "constant"
    assert refusal(UnavailableError, folder, plugins=only(npz=ThirdParty)) == (
        "no runtime on this machine can execute bundle 'b' in fp32: no runtime loads onnx"
    )
    assert refusal(BundleError, folder, precision="int8") == "bundle 'b' has no onnx file in int8; it has onnx fp32"


class NpzConstant(Constant):
    formats = ("npz",)


def test_the_only_file_that_a_runtime_loads_needs_no_precision(handmade, only):
    folder = handmade("logits")
    (folder / "model.fp16.npz").write_bytes(b"0")
    cards = [
        ArtifactCard(format="onnx", file="model.onnx", precision="fp32", gate="passed", made_with={}),
        ArtifactCard(format="npz", file="model.fp16.npz", precision="fp16", gate="passed", made_with={}),
    ]
    write_manifest(folder, describe(*KINDS["logits"]), 20, cards)
    found = only(npz=NpzConstant, constant=Constant)
    assert load(folder, runtime="npz", plugins=found).artifact.file == "model.fp16.npz"
    assert load(folder, runtime="constant", plugins=found).artifact.file == "model.onnx"
    assert refusal(UnavailableError, folder, runtime="npz", precision="fp32", plugins=found) == (
        "runtime 'npz' loads npz, but bundle 'b' has no such file in fp32; it has onnx fp32, npz fp16"
    )


def test_load_is_exported_by_the_package():
    assert distillkit_export.load is load
    with pytest.raises(AttributeError, match=r"^module 'distillkit_export' has no attribute 'loads'$"):
        distillkit_export.loads  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_predicts_as_the_library_does(handmade, tmp_path, kind):
    folder = handmade(kind)
    PHOTOGRAPH.save(tmp_path / "p.png")
    done = subprocess.run(
        [sys.executable, folder / "predict.py", "p.png"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    (answer,) = load(folder)([tmp_path / "p.png"])
    if kind == "embedding":
        printed = json.loads(done.stdout)
        assert printed["image"] == "p.png"
        np.testing.assert_allclose(printed["embedding"], answer.scores, rtol=1e-6)
    else:
        assert done.stdout.splitlines() == ["p.png", *(f"  {share:6.1%}  {name}" for name, share in answer.top())]


@pytest.mark.parametrize("orientation", ["exif", "stored"])
def test_the_script_turns_photographs_as_the_library_does(handmade, tmp_path, orientation, monkeypatch):
    monkeypatch.setitem(KINDS, "embedding", (replace(KINDS["embedding"][0], orientation=orientation), ExportRequest()))
    folder = handmade("embedding")
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        PHOTOGRAPH.save(tmp_path / f"{number}.jpg", exif=exif)
    PHOTOGRAPH.save(tmp_path / "9.jpg", exif=b"Exif\0\0junk")
    names = [f"{number}.jpg" for number in range(1, 10)]
    done = subprocess.run(
        [sys.executable, folder / "predict.py", *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    answers = load(folder)([tmp_path / name for name in names])
    for line, answer in zip(done.stdout.splitlines(), answers, strict=True):
        np.testing.assert_allclose(json.loads(line)["embedding"], answer.scores, rtol=1e-6)
    turned = any(not np.array_equal(answer.scores, answers[0].scores) for answer in answers)
    assert turned == (orientation == "exif")


def test_the_script_draws_transparency_and_16_bits_as_the_library_does(handmade, tmp_path, monkeypatch):
    spec = replace(KINDS["embedding"][0], background="#ff8000", grey16="scale")
    monkeypatch.setitem(KINDS, "embedding", (spec, ExportRequest()))
    folder = handmade("embedding")
    drawn = PHOTOGRAPH.copy()
    drawn.putalpha(Image.linear_gradient("L").resize(drawn.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn.save(tmp_path / "rgba.png", exif=exif)
    drawn.convert("LA").save(tmp_path / "la.png")
    drawn.quantize(30).save(tmp_path / "palette.png")
    PHOTOGRAPH.save(tmp_path / "key.png", transparency=PHOTOGRAPH.getpixel((0, 0)))
    deep = np.asarray(PHOTOGRAPH.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    PHOTOGRAPH.convert("L").save(tmp_path / "grey.png")
    names = ["rgba.png", "la.png", "palette.png", "key.png", "deep.png", "deep.tif", "grey.png"]
    done = subprocess.run(
        [sys.executable, folder / "predict.py", *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    answers = load(folder)([tmp_path / name for name in names])
    for line, answer in zip(done.stdout.splitlines(), answers, strict=True):
        np.testing.assert_allclose(json.loads(line)["embedding"], answer.scores, rtol=1e-6)
    by_name = dict(zip(names, answers, strict=True))
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(by_name[name].scores, by_name["grey.png"].scores)


def test_the_script_prints_names_without_control_characters(handmade, tmp_path, monkeypatch):
    """Promise: names of classes, files and models are text.

    Attempt: a student whose class names move the cursor, exported and used with the bundle's predict.py.
    """
    spec, request = KINDS["logits"]
    names = tuple(f"{index}\x9b2J\nerror: gone" for index in range(spec.classes))
    monkeypatch.setitem(KINDS, "logits", (replace(spec, class_names=names), request))
    PHOTOGRAPH.save(tmp_path / "p\x1b[2J.png")
    done = subprocess.run(
        [sys.executable, handmade("logits") / "predict.py", "p\x1b[2J.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    first, *others = done.stdout.splitlines()
    assert first == "p?[2J.png"
    assert len(others) == min(5, spec.classes)
    assert all(line.endswith("?2J?error: gone") for line in others)


def test_no_text_of_a_student_is_code_of_the_script():
    """Promise: names of classes, files and models are text.

    Attempt: a student.json whose interpolation is a line of Python, exported and used with the bundle's predict.py.
    """
    spec, request = KINDS["logits"]
    script = predict_script(describe(replace(spec, interpolation="bicubic)\nraise SystemExit(99)\n("), request))
    raised = [ast.unparse(node.exc) for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Raise) and node.exc]
    assert [each for each in raised if not each.startswith("ValueError(")] == []
    assert "Resampling['BICUBIC)\\nRAISE SYSTEMEXIT(99)\\n(']" in script


@pytest.mark.parametrize("what", IRREGULAR)
def test_the_script_opens_nothing_but_files(handmade, tmp_path, what):
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe, a socket or a device among the pictures, for the bundle's `predict.py`.
    """
    IRREGULAR[what](tmp_path / "a.png")
    command = [sys.executable, str(handmade("logits") / "predict.py"), "a.png", "missing.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stderr == (
        "error: image 'a.png' cannot be read: it is a pipe or a device, not a file\n"
        "error: image 'missing.png' cannot be read: No such file or directory\n"
    )


def test_a_changed_script_leaves_the_bundle_usable(handmade):
    folder = handmade("logits")
    before = load(folder)([PHOTOGRAPH])
    script = folder / "predict.py"
    script.write_text(script.read_text() + "import os\n")
    (folder / "samples.npz").unlink(missing_ok=True)  # `predict` does not read it
    np.testing.assert_array_equal(load(folder)([PHOTOGRAPH])[0].scores, before[0].scores)


def test_there_is_no_script_for_channels_that_no_image_has():
    spec = replace(SPEC, mean=(0.5,) * 4, std=(0.5,) * 4)
    assert predict_script(describe(spec, ExportRequest())) is None


def test_the_script_is_short_and_lists_its_packages(handmade):
    text = (handmade("logits") / "predict.py").read_text()
    assert len(text.splitlines()) <= 70
    assert max(map(len, text.splitlines())) <= 120
    assert "Needs numpy, pillow and onnxruntime" in text


def test_an_altered_bundle_is_not_loaded(exported, tmp_path):
    folder = shutil.copytree(exported["plain"].directory, tmp_path / "b")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert refusal(BundleError, folder).startswith("model.onnx has ")


def write_best(folder, batches, **changes):
    """Write what `profile --tune` adds to a bundle, possibly with invalid content."""
    from distillkit.compute.cpus import usable_cpus
    from distillkit.compute.machine import gpus, processor

    here = {"processor": processor(), "cpus": usable_cpus(), "gpus": [gpu.name for gpu in gpus()], "software": {}}
    (folder / "profile").mkdir(exist_ok=True)
    text = json.dumps({"kind": "distillkit best setting", "schema_version": 1, **here, "batches": batches, **changes})
    (folder / "profile" / "best.json").write_text(text)


def choice(**changes):
    return {
        "configuration": "c",
        "runtime": "onnxruntime-cpu",
        "format": "onnx",
        "precision": "fp32",
        "setting": {"threads": 1},
        "file": "model.onnx",
        "p50_ms": 1.0,
        "against": {},
        **changes,
    }


class Recording(Constant):
    """Records the setting with which it was opened."""

    def settings(self):
        return ({}, {"spinning": False})

    def open(self, servable, setting):
        opened.append(setting)
        return super().open(servable, setting)


opened = []


@pytest.mark.parametrize(
    ("setting", "used"),
    [
        ({"threads": 2}, {"threads": 2}),
        ({"spinning": False, "threads": 1}, {"spinning": False, "threads": 1}),
        ({"threads": 10**9}, {}),
        ({"threads": "all"}, {}),
        ({"cache": "/somewhere"}, {}),
    ],
)
def test_a_tuned_setting_is_used_only_if_the_runtime_offers_it(handmade, setting, used, only):
    folder = handmade("logits")
    write_best(folder, {"1": choice(runtime="recording", setting=setting)})
    opened.clear()
    assert load(folder, plugins=only(recording=Recording)).runtime == "recording"
    assert opened == [used]


@pytest.mark.parametrize("how", ["pipe", "link", "deep", "other file"])
def test_an_invalid_best_setting_is_ignored(handmade, tmp_path, how):
    folder = handmade("logits")
    write_best(folder, {"1": choice(file="../secret.onnx" if how == "other file" else "model.onnx")})
    best = folder / "profile" / "best.json"
    if how == "pipe":
        best.unlink()
        os.mkfifo(best)
    elif how == "link":
        best.rename(tmp_path / "best.json")
        best.symlink_to(tmp_path / "best.json")
    elif how == "deep":
        best.write_text("[" * 200_000)
    assert load(folder).runtime == "onnxruntime-cpu"
