"""What is loaded is what was checked: files of a bundle that are replaced or grow after their SHA-256 was checked."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO

import numpy as np
import onnx
import pytest

from distillkit.contracts.runtime import Servable
from distillkit.errors import BundleError, GateError
from distillkit.storage import untrusted
from distillkit.storage.untrusted import plain_sha256, read_plain_bytes, verified
from distillkit_export.bundle import reader
from distillkit_export.bundle.manifest import PARITY
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.export_options import ExportOptions
from distillkit_export.onnx.exporter import OnnxExporter
from distillkit_export.onnx_scan.structure import OnnxStructureError, read_structure
from distillkit_export.pipeline import extend_bundle
from distillkit_export.pipeline.export import export
from distillkit_export.pipeline.verify import verify
from distillkit_export.predictor import load
from distillkit_export.profiling.subjects import bundle_subject
from distillkit_export.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from distillkit_export.runtimes.openvino_cpu import OpenVino

CHANGED = "model.onnx was changed after its SHA-256 was checked; copy or export the bundle again"


@pytest.fixture
def bundle(exported, tmp_path):
    shutil.copytree(exported["plain"].directory, tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture
def other(bundle, tmp_path):
    """A valid ONNX file with other weights."""
    model = onnx.load(bundle / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, tmp_path / "other.onnx")
    return tmp_path / "other.onnx"


@contextmanager
def swapped_after_hashing(monkeypatch, *modules, name, by):
    """Replace a file by another as soon as its SHA-256 was computed."""

    def hashed(file, size):
        digest = plain_sha256(file, size)
        if by.exists() and os.path.samestat(os.fstat(file.fileno()), name.stat()):
            by.replace(name)
        return digest

    with monkeypatch.context() as patch:
        for module in modules:
            patch.setattr(module, "plain_sha256", hashed)
        yield


IMAGES = np.linspace(-1, 1, 3 * 40 * 40, dtype=np.float32).reshape(1, 3, 40, 40)


@pytest.mark.parametrize("runtime", [OnnxRuntimeCpu, OpenVino])
def test_a_runtime_refuses_a_file_that_was_replaced_after_the_check(bundle, other, runtime):
    """Promise: What is loaded is what was checked.

    Attempt: A file of a bundle is replaced between the check of its SHA-256 and the load.
    """
    if not runtime().availability().works:
        pytest.skip("the runtime is not installed")
    opened = open_bundle(bundle)
    other.replace(bundle / "model.onnx")
    with pytest.raises(BundleError) as refused:
        runtime().open(opened.servable(opened.artifact()), {})
    assert str(refused.value) == CHANGED


@pytest.mark.parametrize("runtime", [OnnxRuntimeCpu, OpenVino])
def test_a_runtime_loads_the_file_that_it_hashed(bundle, other, runtime, monkeypatch):
    """Promise: What is loaded is what was checked.

    Attempt: A file of a bundle is replaced between its last hash and its load, in the moment itself.
    """
    if not runtime().availability().works:
        pytest.skip("the runtime is not installed")
    opened = open_bundle(bundle)
    expected = runtime().open(Servable("onnx", str(bundle / "model.onnx")), {})(IMAGES)
    with swapped_after_hashing(monkeypatch, untrusted, name=bundle / "model.onnx", by=other):
        scores = runtime().open(opened.servable(opened.artifact()), {})(IMAGES)
    assert not other.exists()
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("runtime", [OnnxRuntimeCpu, OpenVino])
def test_a_file_that_does_not_load_is_named_by_its_path(tmp_path, runtime):
    if not runtime().availability().works:
        pytest.skip("the runtime is not installed")
    file = tmp_path / "model.onnx"
    file.write_bytes(b"this is not a model")
    with pytest.raises(GateError) as refused:
        runtime().open(Servable("onnx", str(file), sha256=sha256(file.read_bytes()).hexdigest()), {})
    assert str(file) in str(refused.value)
    assert "/proc/" not in str(refused.value)


def test_without_proc_the_bytes_that_were_hashed_are_loaded(bundle, monkeypatch):
    opened = open_bundle(bundle)
    expected = OnnxRuntimeCpu().open(opened.servable(opened.artifact()), {})(IMAGES)
    monkeypatch.setattr(untrusted, "opened_path", lambda _: None)
    for runtime in (OnnxRuntimeCpu(), *([OpenVino()] if OpenVino().availability().works else [])):
        scores = runtime.open(opened.servable(opened.artifact()), {})(IMAGES)
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_file_that_is_scanned_is_the_one_that_was_hashed(bundle, tmp_path, monkeypatch):
    """Promise: What is loaded is what was checked.

    Attempt: An unsafe ONNX file is in the place of a safe one when it is hashed, or when its operators are checked.
    """
    model = onnx.load(bundle / "model.onnx")
    model.graph.node.append(onnx.helper.make_node("Own", ["images"], ["x"], domain="com.example"))
    unsafe, safe = tmp_path / "unsafe.onnx", tmp_path / "safe.onnx"
    unsafe.write_bytes(model.SerializeToString())
    shutil.copy(bundle / "model.onnx", safe)
    shutil.copy(unsafe, bundle / "model.onnx")
    manifest = json.loads((bundle / "bundle.json").read_text())
    content = unsafe.read_bytes()
    manifest["files"]["model.onnx"] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with (
        swapped_after_hashing(monkeypatch, reader, name=bundle / "model.onnx", by=safe),
        pytest.raises(BundleError, match=r"^model.onnx uses operator 'Own' of domain 'com.example'"),
    ):
        open_bundle(bundle)
    assert not safe.exists()


def test_verify_gates_the_file_that_was_checked(bundle, other, plugins, monkeypatch):
    """Promise: What is loaded is what was checked.

    Attempt: A file of a bundle is replaced while `distillkit verify` runs.
    """
    with (
        swapped_after_hashing(monkeypatch, reader, name=bundle / "model.onnx", by=other),
        pytest.raises(BundleError) as refused,
    ):
        verify(bundle, plugins=plugins)
    assert str(refused.value) == CHANGED


def test_predict_profile_and_the_gate_load_files_by_their_digest(bundle, plugins):
    """Promise: What is loaded is what was checked.

    Attempt: A file of a bundle is replaced while `predict` or `profile` runs.
    """
    opened = open_bundle(bundle)
    digest = opened.manifest.files["model.onnx"].sha256
    (artefact,) = bundle_subject(opened, "b").artefacts
    assert (artefact.servable.sha256, opened.servable(opened.artifact()).sha256) == (digest, digest)
    scorer = OnnxExporter(OnnxExporter.Options()).open_checked(opened.servable(opened.artifact()))
    np.testing.assert_array_equal(scorer(IMAGES), load(bundle, plugins=plugins)._session(IMAGES))


def test_arrays_and_reports_are_read_from_what_was_checked(bundle):
    """Promise: What is loaded is what was checked.

    Attempt: `samples.npz` or `parity.json` is replaced after the check, by a pickle or by a pipe.
    """
    opened = open_bundle(bundle)
    for name in ("samples.npz", PARITY):
        (bundle / name).write_bytes(b"something else of any length" * 100)
        with pytest.raises(BundleError, match=rf"^{name} of bundle '.+' (has .+ bytes, more than|was changed after)"):
            opened.content(name)


def test_files_that_the_manifest_does_not_list_are_not_opened(bundle, plugins):
    """Promise: Files that a manifest does not list are never read.

    Attempt: A pipe in place of a report that the manifest does not list, for `profile`, `predict` and `verify`.
    """
    manifest = json.loads((bundle / "bundle.json").read_text())
    del manifest["files"][PARITY]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    (bundle / PARITY).unlink()
    for name in (PARITY, "parity.md", "profile.json"):
        (bundle / name).unlink(missing_ok=True)
        os.mkfifo(bundle / name)
    manifest["files"].pop("parity.md", None)
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert bundle_subject(open_bundle(bundle), "b").card.accuracy == {}
    assert load(bundle, plugins=plugins).artifact.file == "model.onnx"
    assert verify(bundle, plugins=plugins).verdicts[0].outcome == "passed"


def test_a_format_is_added_to_the_files_that_were_checked(bundle, other, plugins, monkeypatch):
    """Promise: What is loaded is what was checked.

    Attempt: A file of a bundle is replaced before `export BUNDLE --trt` copies it.
    """
    copy_bundle = extend_bundle.copy_bundle

    def late(*arguments):
        other.replace(bundle / "model.onnx")
        return copy_bundle(*arguments)

    monkeypatch.setattr(extend_bundle, "copy_bundle", late)
    with pytest.raises(BundleError, match=r"^model\.onnx .*it was altered or truncated after the export"):
        export(str(bundle), options=ExportOptions(trt=True), plugins=plugins)


def test_a_file_that_becomes_a_pipe_after_it_was_inspected_is_not_waited_for(tmp_path):
    """Promise: Nothing but a regular file is opened.

    Attempt: A file of a bundle that another process replaces by a pipe while `distillkit verify` runs.
    """
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(BundleError) as refused:
        reader._require_readable(tmp_path / "model.onnx", "model.onnx", tmp_path)
    assert str(refused.value) == (
        f"model.onnx of bundle '{tmp_path}' is a pipe, not a file; copy or export the bundle again"
    )
    with pytest.raises(OnnxStructureError, match=r"^is a pipe, not a file$"):
        read_structure(tmp_path / "model.onnx")


class Endless(BytesIO):
    """A file that grows as fast as it is read."""

    def read(self, size=-1):
        assert size >= 0, "read to the end of a file that has none"
        return bytes(size)


def test_a_file_that_grows_while_it_is_hashed_is_altered():
    """Promise: Time is bounded by what a valid file needs.

    Attempt: A file that another process extends while it is read.
    """
    assert plain_sha256(Endless(), 3_000_000) is None
    assert plain_sha256(BytesIO(bytes(9)), 10) is None
    assert plain_sha256(BytesIO(bytes(10)), 10) == sha256(bytes(10)).hexdigest()


def test_a_file_that_grows_while_it_is_read_is_limited(tmp_path, monkeypatch):
    """Promise: Memory is bounded by what a valid file needs.

    Attempt: A file that another process extends while it is read, or one of /proc, which has no size.
    """
    (tmp_path / "x").touch()
    monkeypatch.setattr(untrusted, "open_plain", lambda _: Growing(tmp_path / "x"))
    with pytest.raises(ValueError, match="has more than the limit of 100 bytes"):
        read_plain_bytes(tmp_path / "x", largest=100)


class Growing(Endless):
    def __init__(self, path):
        super().__init__()
        self._opened = path.open("rb")

    def fileno(self):
        return self._opened.fileno()

    def close(self):
        self._opened.close()
        super().close()


def test_a_changed_file_is_not_given_out(tmp_path):
    (tmp_path / "x").write_bytes(b"one")
    with pytest.raises(ValueError, match="was changed after"), verified(tmp_path / "x", sha256(b"two").hexdigest()):
        pytest.fail("it was given out")
