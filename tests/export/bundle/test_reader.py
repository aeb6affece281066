"""A bundle is opened only where it is whole, unaltered and keeps to its folder; the rest is refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from distillkit.errors import BundleError
from distillkit_export.bundle.reader import open_bundle


@pytest.fixture
def bundle(exported, tmp_path):
    """A bundle of its own for every test, called 'b' and named relatively, as sentences show it."""
    shutil.copytree(exported["plain"].directory, tmp_path / "b")
    return tmp_path / "b"


def refusal(folder):
    with pytest.raises(BundleError) as refused:
        open_bundle(folder)
    return str(refused.value).replace(str(folder), "b")


def edit(folder, change):
    """Rewrite the manifest: somebody else's, so it may say anything."""
    file = folder / "bundle.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def relist(folder, name):
    """State the digest that a file has now, as an attacker would."""
    content = (folder / name).read_bytes()
    card = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda data: data["files"].__setitem__(name, card))


def test_a_whole_bundle_opens(bundle):
    opened = open_bundle(bundle)
    artifact = opened.artifact()
    assert (artifact.file, artifact.precision, opened.path(artifact)) == ("model.onnx", "fp32", bundle / "model.onnx")
    assert opened.manifest.input.image_size == (40, 40)


def test_files_that_are_not_listed_do_not_matter(bundle):
    (bundle / "notes.txt").write_text("mine")
    assert "notes.txt" not in open_bundle(bundle).manifest.files


def test_opening_needs_neither_torch_nor_onnx_nor_a_runtime(bundle):
    blocked = ("torch", "timm", "onnx", "onnxruntime", "sklearn", "google.protobuf")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from pathlib import Path\n"
        "from distillkit_export.bundle.reader import open_bundle\n"
        f"print(open_bundle(Path({str(bundle)!r})).artifact().file)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("model.onnx\n", "")


def test_what_is_not_there_is_named(bundle):
    opened = open_bundle(bundle)
    with pytest.raises(BundleError) as refused:
        opened.artifact("onnx", "int8")
    assert str(refused.value) == f"bundle '{bundle}' has no onnx file in int8; it has onnx fp32"
    with pytest.raises(BundleError) as refused:
        opened.path("model.int8.onnx")
    assert str(refused.value) == (
        f"bundle '{bundle}' has no file 'model.int8.onnx'; its bundle.json lists those that it has"
    )


def test_a_folder_that_is_none(tmp_path):
    assert refusal(tmp_path / "b") == "bundle 'b' does not exist; give a folder that `distillkit export` wrote"
    (tmp_path / "b").write_text("")
    assert refusal(tmp_path / "b") == "'b' is a file; give the folder of a bundle, which holds bundle.json"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "b",
            (
                "'b' has no bundle.json, so it is no bundle or its export did not finish; "
                "give a folder that `distillkit export` wrote"
            ),
        ),
        (".b.tmp", "'b' is an export that did not finish; export again"),
        ("rejected", "'b' holds files that failed their gate, which are not served; export again"),
    ],
)
def test_partial_exports(bundle, name, sentence):
    (bundle / "bundle.json").unlink()
    folder = bundle.rename(bundle.with_name(name))
    assert refusal(folder) == sentence


def test_a_partial_export_with_a_manifest_is_refused_as_well(bundle):
    assert refusal(bundle.rename(bundle.with_name(".b.tmp"))) == "'b' is an export that did not finish; export again"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b'{"schema_version": 1, "sou',
            (
                "bundle.json of 'b' is torn or no JSON (Unterminated string starting at: line 1 column 23 (char 22)); "
                "copy or export the bundle again"
            ),
        ),
        (b"\xff\xfe", "bundle.json of 'b' is torn: it is not UTF-8; copy or export the bundle again"),
        (
            b'{"a": 1, "a": 2}',
            "bundle.json of 'b' is torn or no JSON (it has a duplicate key); copy or export the bundle again",
        ),
        (
            b'{"a": NaN}',
            "bundle.json of 'b' is torn or no JSON (NaN is not a JSON number); copy or export the bundle again",
        ),
        (
            b"[]",
            "bundle.json of 'b' does not describe a bundle: the file: Input should be an object; export it again",
        ),
        (b'{"schema_version": 7}', "bundle 'b' has schema 7 and this distillkit reads 1; upgrade distillkit"),
        (
            b'{"schema_version": 0}',
            (
                "bundle.json of 'b' does not describe a bundle: schema_version: Input should be 1, and 10 more "
                "mistakes; export it again"
            ),
        ),
    ],
)
def test_manifests_that_are_none(bundle, content, sentence):
    (bundle / "bundle.json").write_bytes(content)
    assert refusal(bundle) == sentence


def test_a_manifest_that_nests_without_end(bundle):
    (bundle / "bundle.json").write_text("[" * 200_000)
    assert refusal(bundle).startswith("bundle.json of 'b' is torn or no JSON (maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda data: data.update(postprocess="os.system"),
            (
                "bundle.json of 'b' does not describe a bundle: postprocess: Extra inputs are not permitted; "
                "export it again"
            ),
        ),
        (
            lambda data: data["input"].update(crop="1"),
            (
                "bundle.json of 'b' does not describe a bundle: input.crop: Input should be a valid number; "
                "export it again"
            ),
        ),
        (
            lambda data: data["input"].update(image_size=[0, 40]),
            "bundle.json has an image size of 0 x 40, which is none; export the student again",
        ),
        (
            lambda data: data["input"].update(image_size=[40, 10**6]),
            "bundle.json has an image size of 40 x 1000000, which is none; export the student again",
        ),
        *(
            (
                lambda data, crop=crop: data["input"].update(crop=crop),
                f"bundle.json has a crop of {crop}, which is not between 0 and 1; export the student again",
            )
            for crop in (0.0, -0.5, 1.5)
        ),
        (
            lambda data: data["input"].update(crop=1e-9),
            (
                "bundle.json has a crop of 1e-09, for which images would be resized to more than 16,384 pixels; "
                "export the student again"
            ),
        ),
        (
            lambda data: data["input"].update(crop=float("nan")),
            "bundle.json of 'b' is torn or no JSON (NaN is not a JSON number); copy or export the bundle again",
        ),
        (
            lambda data: data["input"].update(interpolation="cubist"),
            (
                "bundle.json has an interpolation 'cubist', which is none of nearest, bilinear, bicubic, box, hamming, "
                "lanczos; export the student again"
            ),
        ),
        (
            lambda data: data["input"].update(mean=[0.5]),
            "bundle.json has 1 mean for 3 standard deviations; export the student again",
        ),
        (
            lambda data: data["input"].update(std=[0.5, 0.0, 0.5]),
            (
                "bundle.json has a mean that is not finite or a standard deviation that is not positive; "
                "export the student again"
            ),
        ),
        (
            lambda data: data["class_names"].pop(),
            "bundle.json has 6 class names for an output of 7 classes; export the student again",
        ),
        (
            lambda data: data["output"].update(shape=[]),
            "bundle.json has an output of shape [], which is not [batch, classes]; export the student again",
        ),
        *(
            (
                lambda data, shape=shape: data["input"].update(shape=shape),
                (
                    f"bundle.json has an input of shape {shape}, which does not fit its image size, mean and layout; "
                    "export the student again"
                ),
            )
            for shape in ([], ["batch", 1, 40, 40], ["batch", 3, 40, 41], ["batch", 3, "height", 40], ["batch", 3])
        ),
        (
            lambda data: data["artifacts"][0].update(file="other.onnx"),
            "bundle.json names artefact 'other.onnx', which is not among its files; export the student again",
        ),
        *(
            (
                lambda data, name=name: data["files"].__setitem__(name, {"sha256": "0", "bytes": 1}),
                f"bundle.json lists file {name!r}, which is not a path inside the bundle; export the student again",
            )
            for name in ("../secret", "/etc/passwd", "a/../../b", "C:/x", "a\\b", "", ".", "a\nb", "bundle.json")
        ),
    ],
)
def test_manifests_that_say_what_cannot_be(bundle, change, sentence):
    edit(bundle, change)
    assert refusal(bundle) == sentence


def test_missing_and_altered_files(bundle):
    file = bundle / "model.onnx"
    content = file.read_bytes()
    file.unlink()
    assert refusal(bundle) == "model.onnx is missing in bundle 'b'; copy or export the bundle again"
    file.write_bytes(content[:-1])
    assert refusal(bundle) == (
        f"model.onnx has {len(content) - 1:,} bytes where bundle.json says {len(content):,}, so it was altered or torn "
        "after the export; copy or export the bundle again"
    )
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal(bundle) == (
        "model.onnx has not the content whose digest bundle.json has, so it was altered or torn after the export; "
        "copy or export the bundle again"
    )
    file.unlink()
    file.mkdir()
    assert refusal(bundle) == "model.onnx of bundle 'b' is no plain file; export the bundle again"


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_links_that_leave_the_folder(bundle, name):
    file, elsewhere = bundle / name, bundle.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert refusal(bundle) == f"{name} of bundle 'b' is a link to elsewhere; copy the bundle with its files"
    file.unlink()
    os.link(elsewhere, file)
    assert refusal(bundle) == (
        f"{name} of bundle 'b' is hard-linked to a file elsewhere, which can change it; copy the bundle"
    )


def test_a_folder_inside_that_is_a_link(bundle, tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "x").write_text("x")
    (bundle / "trt").symlink_to(tmp_path / "away")
    edit(bundle, lambda data: data["files"].__setitem__("trt/x", {"sha256": "0", "bytes": 1}))
    assert refusal(bundle) == "trt/x of bundle 'b' is a link to elsewhere; copy the bundle with its files"


def test_a_pipe_in_place_of_a_file_does_not_hang(bundle):
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    assert refusal(bundle) == "model.onnx of bundle 'b' is no plain file; export the bundle again"


def alter(bundle, change):
    """Change the graph and state its new digest, so that the graph itself is what is refused."""
    file = bundle / "model.onnx"
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    relist(bundle, "model.onnx")


def add_node(operator, domain=""):
    return lambda model: model.graph.node.append(helper.make_node(operator, ["images"], ["x"], domain=domain))


def add_function(model):
    opsets = [helper.make_opsetid("", 20)]
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [node], opsets))


def add_training(model):
    model.training_info.add()


def add_external(location, **entries):
    def change(model):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        for key, text in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=text)
        model.graph.initializer.append(tensor)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            add_node("Own", "com.stranger"),
            (
                "model.onnx uses operator 'Own' of domain 'com.stranger', which is not part of ONNX; "
                "export the student again"
            ),
        ),
        (
            add_node("Own\x1b[2J"),
            r"model.onnx uses operator 'Own\x1b[2J', which is unknown; export the student again",
        ),
        (
            add_node("Attention", "com.microsoft"),
            "model.onnx uses operator 'Attention', which is unknown in com.microsoft; export the student again",
        ),
        (
            add_function,
            "model.onnx contains model-local functions, which distillkit never writes; export the student again",
        ),
        (
            add_training,
            "model.onnx contains a training graph, which distillkit never writes; export the student again",
        ),
        *(
            (
                add_external(location, **entries),
                (
                    f"model.onnx stores weights in another file, '{location}', which distillkit never does; "
                    "export the student again"
                ),
            )
            for location, entries in (
                ("../w.bin", {}),
                ("/etc/passwd", {}),
                ("", {}),
                ("w.bin", {}),
                ("parity.json", {"offset": "0", "length": "8"}),
            )
        ),
    ],
)
def test_graphs_that_no_exporter_of_ours_writes(bundle, change, sentence):
    alter(bundle, change)
    assert refusal(bundle) == sentence


def test_every_onnx_file_is_looked_at_whatever_the_manifest_calls_it(bundle):
    edit(bundle, lambda data: data["artifacts"][0].update(format="openvino"))
    alter(bundle, add_node("Own", "x"))
    assert refusal(bundle).startswith("model.onnx uses operator 'Own' of domain 'x'")


def test_arrays_are_read_without_pickle(bundle):
    np.savez(bundle / "samples.npz", images=np.ones((2, 3)))
    relist(bundle, "samples.npz")
    assert open_bundle(bundle).arrays("samples.npz")["images"].shape == (2, 3)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (
            lambda file: np.savez(file, images=np.array([{}], dtype=object), allow_pickle=True),
            "Object arrays cannot be loaded when allow_pickle=False",
        ),
        (lambda file: file.write_bytes(b"no zip"), "File is not a zip file"),
    ],
)
def test_arrays_that_are_none(bundle, write, reason):
    write(bundle / "samples.npz")
    relist(bundle, "samples.npz")
    with pytest.raises(BundleError) as refused:
        open_bundle(bundle).arrays("samples.npz")
    assert str(refused.value) == f"samples.npz holds no arrays that can be read ({reason})"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """The path of everything in a manifest."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


@pytest.fixture(scope="module")
def source(exported):
    """A path alone: a failing example prints its arguments."""
    return exported["plain"].directory


@given(data=st.data())
def test_any_other_manifest_is_opened_or_refused_in_one_sentence(source, tmp_path_factory, data):
    manifest = json.loads((source / "bundle.json").read_text())
    path = data.draw(st.sampled_from(list(places(manifest))))
    place, value = manifest, data.draw(JSON)
    for key in path[:-1]:
        place = place[key]
    if not path:
        manifest = value
    elif isinstance(place, dict) and data.draw(st.booleans()):
        place[data.draw(st.text(max_size=12))] = place.pop(path[-1])
    else:
        place[path[-1]] = value
    folder = tmp_path_factory.getbasetemp() / "any-manifest"
    if not folder.exists():
        shutil.copytree(source, folder)
    (folder / "bundle.json").write_text(json.dumps(manifest))
    try:
        open_bundle(folder)
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused, some are not
