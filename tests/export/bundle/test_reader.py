"""A bundle is opened only if it is complete, unaltered and inside its folder; others are refused in one message."""

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
from distillkit_export import load
from distillkit_export.bundle.reader import open_bundle


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy of a bundle for every test, in a folder called 'b'."""
    shutil.copytree(exported["plain"].directory, tmp_path / "b")
    return tmp_path / "b"


def refusal(folder):
    with pytest.raises(BundleError) as refused:
        open_bundle(folder)
    return str(refused.value).replace(str(folder), "b")


def edit(folder, change):
    """Change the manifest, as a third party might."""
    file = folder / "bundle.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def relist(folder, name):
    """Update the digest of a file in the manifest, as an attacker would."""
    content = (folder / name).read_bytes()
    card = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda data: data["files"].__setitem__(name, card))


def test_a_valid_bundle_opens(bundle):
    opened = open_bundle(bundle)
    artifact = opened.artifact()
    assert (artifact.file, artifact.precision, opened.path(artifact)) == ("model.onnx", "fp32", bundle / "model.onnx")
    assert opened.manifest.input.image_size == (40, 40)


def test_unlisted_files_are_ignored(bundle):
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


def test_missing_precisions_and_files_are_refused(bundle):
    opened = open_bundle(bundle)
    with pytest.raises(BundleError) as refused:
        opened.artifact("onnx", "int8")
    assert str(refused.value) == f"bundle '{bundle}' has no onnx file in int8; it has onnx fp32"
    with pytest.raises(BundleError) as refused:
        opened.path("model.int8.onnx")
    assert str(refused.value) == (
        f"bundle '{bundle}' has no file 'model.int8.onnx'; its bundle.json lists the files that it has"
    )


def test_a_path_without_a_bundle_folder_is_refused(tmp_path):
    assert refusal(tmp_path / "b") == "bundle 'b' does not exist; give a folder that `distillkit export` wrote"
    (tmp_path / "b").write_text("")
    assert refusal(tmp_path / "b") == "'b' is a file; give the folder of a bundle, which contains bundle.json"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "b",
            (
                "'b' has no bundle.json: it is not a bundle, or its export did not finish; "
                "give a folder that `distillkit export` wrote"
            ),
        ),
        (".b.tmp", "'b' is an unfinished export; export again"),
        ("rejected", "'b' contains files that failed the gate and are not served; export again"),
    ],
)
def test_unfinished_and_rejected_exports_are_refused(bundle, name, message):
    (bundle / "bundle.json").unlink()
    folder = bundle.rename(bundle.with_name(name))
    assert refusal(folder) == message


def test_an_unfinished_export_with_a_manifest_is_refused(bundle):
    assert refusal(bundle.rename(bundle.with_name(".b.tmp"))) == "'b' is an unfinished export; export again"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"schema_version": 1, "sou',
            (
                "bundle.json of 'b' is not valid JSON (Unterminated string starting at: line 1 column 23 (char 22)); "
                "copy or export the bundle again"
            ),
        ),
        (b"\xff\xfe", "bundle.json of 'b' is not valid UTF-8; copy or export the bundle again"),
        (
            b'{"a": 1, "a": 2}',
            "bundle.json of 'b' is not valid JSON (it has a duplicate key); copy or export the bundle again",
        ),
        (
            b'{"a": NaN}',
            "bundle.json of 'b' is not valid JSON (NaN is not a JSON number); copy or export the bundle again",
        ),
        (
            b"[]",
            "bundle.json of 'b' is invalid: the file: Input should be an object; export the bundle again",
        ),
        (
            b'{"schema_version": 7}',
            "bundle 'b' has schema version 7, but this distillkit reads version 1; upgrade distillkit",
        ),
        (
            b'{"schema_version": 0}',
            (
                "bundle.json of 'b' is invalid: schema_version: Input should be 1, and 10 more errors; "
                "export the bundle again"
            ),
        ),
    ],
)
def test_unreadable_manifests_are_refused(bundle, content, message):
    (bundle / "bundle.json").write_bytes(content)
    assert refusal(bundle) == message


def test_a_deeply_nested_manifest_is_refused(bundle):
    (bundle / "bundle.json").write_text("[" * 200_000)
    assert refusal(bundle).startswith("bundle.json of 'b' is not valid JSON (maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data.update(postprocess="os.system"),
            ("bundle.json of 'b' is invalid: postprocess: Extra inputs are not permitted; export the bundle again"),
        ),
        (
            lambda data: data["input"].update(crop="1"),
            ("bundle.json of 'b' is invalid: input.crop: Input should be a valid number; export the bundle again"),
        ),
        (
            lambda data: data["input"].update(image_size=[0, 40]),
            "bundle.json has an invalid image size: 0 x 40; export the student again",
        ),
        (
            lambda data: data["input"].update(image_size=[40, 10**6]),
            "bundle.json has an invalid image size: 40 x 1000000; export the student again",
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
                "bundle.json has a crop of 1e-09, which would resize images to more than 16,384 pixels; "
                "export the student again"
            ),
        ),
        (
            lambda data: data["input"].update(crop=float("nan")),
            "bundle.json of 'b' is not valid JSON (NaN is not a JSON number); copy or export the bundle again",
        ),
        (
            lambda data: data["input"].update(interpolation="cubist"),
            (
                "bundle.json has an unknown interpolation 'cubist' (known: nearest, bilinear, bicubic, box, hamming, "
                "lanczos); export the student again"
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
                    f"bundle.json has an input of shape {shape}, which does not match its image size, mean and layout; "
                    "export the student again"
                ),
            )
            for shape in ([], ["batch", 1, 40, 40], ["batch", 3, 40, 41], ["batch", 3, "height", 40], ["batch", 3])
        ),
        (
            lambda data: data["artifacts"][0].update(file="other.onnx"),
            "bundle.json lists artifact 'other.onnx', which is not among its files; export the student again",
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
def test_inconsistent_manifests_are_refused(bundle, change, message):
    edit(bundle, change)
    assert refusal(bundle) == message


def test_missing_and_altered_files(bundle):
    file = bundle / "model.onnx"
    content = file.read_bytes()
    file.unlink()
    assert refusal(bundle) == "model.onnx is missing from bundle 'b'; copy or export the bundle again"
    file.write_bytes(content[:-1])
    assert refusal(bundle) == (
        f"model.onnx has {len(content) - 1:,} bytes, but bundle.json says {len(content):,}: it was altered or "
        "truncated after the export; copy or export the bundle again"
    )
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal(bundle) == (
        "model.onnx does not match the SHA-256 in bundle.json: it was altered or truncated after the export; "
        "copy or export the bundle again"
    )
    file.unlink()
    file.mkdir()
    assert refusal(bundle) == "model.onnx of bundle 'b' is not a regular file; export the bundle again"


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_symbolic_and_hard_links_are_refused(bundle, name):
    file, elsewhere = bundle / name, bundle.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert refusal(bundle) == f"{name} of bundle 'b' is a symbolic link; copy the bundle with the files themselves"
    file.unlink()
    os.link(elsewhere, file)
    assert refusal(bundle) == (
        f"{name} of bundle 'b' is a hard link and can be changed under its other name; copy the bundle"
    )


def test_a_symbolic_link_to_a_folder_is_refused(bundle, tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "x").write_text("x")
    (bundle / "trt").symlink_to(tmp_path / "away")
    edit(bundle, lambda data: data["files"].__setitem__("trt/x", {"sha256": "0", "bytes": 1}))
    assert refusal(bundle) == "trt/x of bundle 'b' is a symbolic link; copy the bundle with the files themselves"


def test_a_pipe_in_place_of_a_file_does_not_hang(bundle):
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    assert refusal(bundle) == "model.onnx of bundle 'b' is not a regular file; export the bundle again"


def alter(bundle, change):
    """Change the graph and update its digest, so that the graph itself is refused."""
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
    ("change", "message"),
    [
        (
            add_node("Own", "com.example"),
            (
                "model.onnx uses operator 'Own' of domain 'com.example', which is not part of ONNX; "
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
def test_graphs_that_distillkit_never_writes_are_refused(bundle, change, message):
    alter(bundle, change)
    assert refusal(bundle) == message


def test_every_onnx_file_is_checked_whatever_its_format_in_the_manifest(bundle):
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
def test_invalid_arrays_are_refused(bundle, write, reason):
    write(bundle / "samples.npz")
    relist(bundle, "samples.npz")
    with pytest.raises(BundleError) as refused:
        open_bundle(bundle).arrays("samples.npz")
    assert str(refused.value) == f"the arrays of samples.npz cannot be read ({reason})"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value, path=()):
    """The path of every value in a manifest."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*path, key))


@pytest.fixture(scope="module")
def source(exported):
    """Only a path, because a failing example prints its arguments."""
    return exported["plain"].directory


@given(data=st.data())
def test_any_other_manifest_is_opened_or_refused_in_one_sentence(source, tmp_path_factory, data):
    manifest = json.loads((source / "bundle.json").read_text())
    path = data.draw(st.sampled_from(list(paths(manifest))))
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


@pytest.mark.parametrize("change", ["edit", "delete", "link"])
def test_files_that_only_explain_may_change(bundle, change):
    """predict.py is meant to be changed, and no action reads it."""
    for name in ("predict.py", "parity.md"):
        if change == "edit":
            (bundle / name).write_text("print('mine')")
        else:
            (bundle / name).unlink()
        if change == "link":
            (bundle / name).symlink_to("/dev/null")
    opened = open_bundle(bundle)
    assert sorted(opened.changed_explanations()) == ["parity.md", "predict.py"]
    relist(bundle, "samples.npz")
    assert open_bundle(bundle).artifact().file == "model.onnx"


def test_a_picture_may_change_and_a_report_that_is_read_may_not(bundle):
    (bundle / "curve.png").write_text("old")
    relist(bundle, "curve.png")
    (bundle / "curve.png").write_text("new")
    assert open_bundle(bundle).changed_explanations() == ["curve.png"]
    (bundle / "parity.json").write_text("{}")
    assert refusal(bundle).startswith("parity.json has 2 bytes, but bundle.json says ")


@pytest.mark.parametrize("name", ["predict.py", "model.txt", "model.png"])
@pytest.mark.parametrize("used", ["predict", "verify"])
def test_a_model_is_checked_whatever_its_name(bundle, name, used):
    """Promise: Only operators of ONNX are run.

    Attempt: An unsafe ONNX file under the name of a file that only explains the bundle, which is not checked.
    """
    model = onnx.load(bundle / "model.onnx")
    model.graph.node.append(onnx.helper.make_node("Own", ["images"], ["x"], domain="com.example"))
    onnx.save(model, bundle / name)
    relist(bundle, name)
    edit(bundle, lambda data: data["artifacts"][0].__setitem__("file", name))
    with pytest.raises(BundleError, match=f"^{name} uses operator 'Own' of domain 'com.example'"):
        load(bundle) if used == "predict" else open_bundle(bundle)


def test_without_every_file_a_file_is_checked_when_it_is_asked_for(bundle):
    (bundle / "samples.npz").unlink()
    opened = open_bundle(bundle, every_file=False)
    assert opened.path(opened.artifact()) == bundle / "model.onnx"
    with pytest.raises(BundleError) as missing:
        opened.arrays("samples.npz")
    assert str(missing.value) == f"samples.npz is missing from bundle '{bundle}'; copy or export the bundle again"
    (bundle / "model.onnx").write_bytes(b"x" * (bundle / "model.onnx").stat().st_size)
    with pytest.raises(BundleError) as altered:
        open_bundle(bundle, every_file=False).path("model.onnx")
    assert str(altered.value) == (
        "model.onnx does not match the SHA-256 in bundle.json: it was altered or truncated after the export; copy or "
        "export the bundle again"
    )


def test_an_artifact_in_another_format_is_checked_with_the_files_that_may_belong_to_it(bundle):
    (bundle / "model.plan").write_text("engine")
    (bundle / "model.json").write_text("card")
    relist(bundle, "model.plan")
    relist(bundle, "model.json")
    card = {"format": "tensorrt", "file": "model.plan", "precision": "fp32", "gate": "passed", "runtime": "r"}
    edit(bundle, lambda data: data["artifacts"].append({**card, "reason": None, "made_with": {}}))
    (bundle / "model.json").write_text("drac")
    opened = open_bundle(bundle, every_file=False)
    assert opened.path(opened.artifact()) == bundle / "model.onnx"
    with pytest.raises(BundleError, match=r"^model\.json does not match the SHA-256"):
        opened.path(opened.artifact("tensorrt"))
