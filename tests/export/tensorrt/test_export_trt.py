"""`distillkit export --trt`: without TensorRT the ONNX file is kept and the engine pending; the target builds it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil

import pytest
from PIL import Image

from distillkit.storage.user_dirs import user_data
from distillkit_cli.main import command_line


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export with --trt on this machine, which has no TensorRT; and its output."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    options = ["--out", folder, "--trt", "--batch", "1:2:8", "--workspace", "2G", "--gate-images", "8"]
    return folder, run("export", "timm:test_vit", "--weights", "none", "--image-size", "32", *options)


@pytest.fixture
def bundle(exported, tmp_path):
    return shutil.copytree(exported[0], tmp_path / "bundle")


def manifest(folder):
    return json.loads((folder / "bundle.json").read_text())


def test_without_tensorrt_the_onnx_is_kept_and_the_command_for_the_target_is_shown(exported):
    folder, (code, out, err) = exported
    assert code == 3
    assert err == (
        'error: tensorrt fp32 is pending: TensorRT is not installed; pip install "distillkit[trt]"; on the target run: '
        f"distillkit export {folder} --trt --batch 1:2:8 --workspace 2G\n"
    )
    assert out.startswith(f"{folder}: 1 file, opset 20, batch x 3 x 32 x 32 images, class head\n")
    (artifact,) = manifest(folder)["artifacts"]
    assert (artifact["file"], artifact["gate"]) == ("model.onnx", "passed")
    (pending,) = manifest(folder)["pending"]
    options = pending.pop("options")
    assert pending == {
        "format": "tensorrt",
        "precision": "fp32",
        "reason": 'TensorRT is not installed; pip install "distillkit[trt]"',
        "command": "distillkit export BUNDLE --trt --batch 1:2:8 --workspace 2G",
    }
    assert (options["batch"], options["workspace"]) == ("1:2:8", "2G")
    assert not (folder / "trt").exists()


def test_timing_cache_is_left_out_of_the_command_and_the_bundle(bundle):
    code, _, err = run("export", bundle, "--trt", "--timing-cache", "/nowhere/d/x")
    assert code == 3
    reason = (
        'TensorRT is not installed; pip install "distillkit[trt]"; --timing-cache is a path on this machine, so the '
        "command leaves it out; add it on the target"
    )
    assert err == (
        f"error: tensorrt fp32 is pending: {reason}; on the target run: distillkit export {bundle} --trt "
        "--batch 1:2:8 --workspace 2G\n"
    )
    assert manifest(bundle)["pending"][0]["reason"] == reason
    assert "/nowhere" not in (bundle / "bundle.json").read_text()


def test_a_bundle_cannot_name_a_file_to_write(bundle, double, tmp_path):
    """Promise: Nothing outside a run, bundle or bank is written.

    Attempt: A bundle whose pending engine has a `timing_cache`, a path that the target would write to.
    """
    (tmp_path / "precious").write_text("precious")
    data = manifest(bundle)
    data["pending"][0]["options"]["timing_cache"] = str(tmp_path / "precious")
    (bundle / "bundle.json").write_text(json.dumps(data))
    code, _, _ = run("export", bundle, "--trt")
    assert (code, (tmp_path / "precious").read_text()) == (0, "precious")


def test_a_pipe_in_place_of_the_timing_cache_is_not_waited_for(bundle, double):
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe in place of the timing cache.
    """
    os.mkfifo(bundle.parent / "cache")
    code, _, err = run("export", bundle, "--trt", "--timing-cache", bundle.parent / "cache")
    assert (code, "Traceback" in err) == (0, False)


def test_target_builds_the_pending_engine_with_its_options(bundle, double):
    code, out, err = run("export", bundle, "--trt")
    assert (code, err) == (0, "Building Engine: 0 of 3\n")
    name = f"trt/double-1-sm89-trt{double.version}-fp32-b1x2x8"
    assert f"{name}.plan" in out
    found = manifest(bundle)
    assert found["pending"] == []
    engine = found["artifacts"][1]
    assert (engine["file"], engine["gate"]) == (f"{name}.plan", "passed")
    assert engine["runtime"] == f"tensorrt {double.version}, NVIDIA Double 1, compute capability 8.9"
    assert engine["made_with"]["onnx_sha256"] == found["files"]["model.onnx"]["sha256"]
    assert engine["made_with"]["workspace"] == 2 << 30
    assert {f"{name}.plan", f"{name}.json"} <= found["files"].keys()
    assert found["files"][f"{name}.plan"]["sha256"] == json.loads((bundle / f"{name}.json").read_text())["sha256"]
    code, _, err = run("export", bundle, "--trt")
    assert (code, err) == (2, f"error: bundle '{bundle}' already has {name}.plan; give --force to replace it\n")


def test_engine_of_another_precision_is_rejected_with_all_its_files(bundle, double):
    double.set(TENSORRT_DOUBLE_FORMAT="Half")
    code, _, err = run("export", bundle, "--trt", "--layers")
    name = f"trt/double-1-sm89-trt{double.version}-fp32-b1x2x8"
    assert code == 4
    assert f"error: {name}.plan is fp16, but fp32 was requested; " in err
    kept = sorted(path.relative_to(bundle / "rejected").as_posix() for path in (bundle / "rejected").rglob("*.*"))
    assert kept == [f"{name}.json", f"{name}.layers.json", f"{name}.plan"]
    assert not list((bundle / "trt").iterdir())


def test_engine_runs_here_but_not_where_it_was_not_built(bundle, double, tmp_path):
    assert run("export", bundle, "--trt")[0] == 0
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    code, out, err = run("predict", bundle, tmp_path / "red.png", "--runtime", "tensorrt", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["runtime"] == "tensorrt"
    shutil.rmtree(user_data())
    code, _, err = run("predict", bundle, tmp_path / "red.png", "--runtime", "tensorrt")
    assert code == 3
    assert "was not built on this machine, and loading an engine runs its code; build your own" in err


def test_engine_option_without_trt_is_an_error(bundle):
    code, out, err = run("export", bundle, "--timing-cache", "here")
    assert (code, out) == (2, "")
    assert err == "error: --timing-cache has no effect without a TensorRT engine; add --trt\n"
