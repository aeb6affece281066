"""`distillkit profile` from the command line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import ModelSpec, Signal
from distillkit_export.bundle.manifest import ArtifactCard, describe, write_manifest
from distillkit_export.runtimes.nvidia import cuda_devices

SHORT = ("--batches", "1,2", "--seconds", "0.05", "--rounds", "2", "--runtime", "onnxruntime-cpu")

PEAK = ("peak", "MiB")


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "sum")


def write_bundle(folder, pixels=48):
    """A bundle of a model that sums its pixels, built without torch. It fails unless `pixels` is 48."""
    spec = ModelSpec("sum", "sum", "other", 2, frozenset({Signal.LOGITS}), (4, 4))
    weights = onnx.numpy_helper.from_array(np.ones((pixels, 2), np.float32), "weights")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "sum",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])],
        [weights],
    )
    folder.mkdir()
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    artifact = ArtifactCard(format="onnx", file="model.onnx", precision="fp32", gate="passed", made_with={})
    write_manifest(folder, describe(spec, ExportRequest()), 20, [artifact])
    return folder


def test_table_goes_to_stdout_and_remarks_to_stderr(distillkit, bundle):
    done = distillkit("profile", str(bundle), *SHORT)
    assert done.code == 0, done.err
    machine, heading, *rows = done.out.splitlines()
    assert " CPUs on " in machine
    assert heading.split() == ["batch", "mode", "configuration", "p50", "ms", "p90", "p99", "images/s", "ratio", *PEAK]
    assert [row.split()[:3] for row in rows] == [[batch, "e2e", "onnxruntime-cpu/fp32"] for batch in "12"]
    assert f"written to {bundle}/profile: profile.json, profile.md, latency.png, throughput.png" in done.err


def test_json_equals_the_written_profile(distillkit, bundle):
    done = distillkit("profile", str(bundle), *SHORT, "--mode", "both", "--json")
    assert done.code == 0, done.err
    (shown,) = json.loads(done.out)["profiles"]
    assert shown == json.loads((bundle / "profile" / "profile.json").read_text())
    assert {row["mode"] for row in shown["rows"]} == {"compute", "e2e"}


def test_regression_exits_with_4_and_equal_speed_with_0(distillkit, bundle, tmp_path):
    assert distillkit("profile", str(bundle), *SHORT, "--out", str(tmp_path / "now")).code == 0
    profile = json.loads((tmp_path / "now" / "profile.json").read_text())
    for row in profile["rows"]:
        row["doubts"] = []
    (tmp_path / "now.json").write_text(json.dumps(profile))
    for row in profile["rows"]:
        row["p50_ms"] /= 2
    (tmp_path / "before.json").write_text(json.dumps(profile))
    same = distillkit("profile", str(tmp_path / "now.json"), "--baseline", str(tmp_path / "now.json"))
    assert same.code == 0
    slower = distillkit("profile", str(tmp_path / "now.json"), "--baseline", str(tmp_path / "before.json"))
    assert slower.code == 4
    assert "error: 2 of 2 measurements are more than 10 % slower than the baseline; the worst is sum/" in slower.err
    allowed = distillkit(
        "profile", str(tmp_path / "now.json"), "--baseline", str(tmp_path / "before.json"), "--allowed", "150"
    )
    assert allowed.code == 0


RUNTIMES = "onnxruntime-cpu, onnxruntime-cuda, onnxruntime-tensorrt, openvino, tensorrt, torch, torch-compile"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batches", "1,x"], "--batches is '1,x'; give auto, or sizes such as 1,8,32"),
        (["--batches", "0"], "--batches is '0'; give auto, or sizes such as 1,8,32"),
        (["--rounds", "0"], "--rounds is 0; give 1 or more"),
        (["--seconds", "nan"], "--seconds is nan; give a number above 0"),
        (["--seconds", "inf"], "--seconds is inf; give a number above 0"),
        (["--seconds", "0"], "--seconds is 0; give a number above 0"),
        (["--allowed", "nan"], "--allowed is nan; give a percentage from 0 up"),
        (["--allowed", "-1"], "--allowed is -1; give a percentage from 0 up"),
        (["--threads", "0"], "--threads is 0; give 1 or more, or leave it out for the runtime's own choice"),
        (["--threads", "-3"], "--threads is -3; give 1 or more, or leave it out for the runtime's own choice"),
        (["--device", "tpu"], "--device 'tpu' is invalid; use cpu, cuda or cuda:1"),
        (
            ["--device", "cpu"],
            "--device applies only to models that torch runs, and sum consists of exported files; leave out --device",
        ),
        (
            ["--runtime", "onnxruntime-cpuu"],
            f"unknown runtime 'onnxruntime-cpuu'; did you mean 'onnxruntime-cpu'? (known: {RUNTIMES})",
        ),
        (
            ["--precision", "fp23"],
            "unknown precision 'fp23'; did you mean 'fp32'? (known: bf16, fp16, fp32, fp8, int8)",
        ),
        (
            ["--baseline", "nofile.json"],
            "--baseline nofile.json: no such file; give a profile.json, or the name of a configuration",
        ),
    ],
)
def test_user_errors_exit_with_2(distillkit, bundle, arguments, sentence):
    done = distillkit("profile", str(bundle), *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}\n")
    assert not (bundle / "profile").exists()


def test_weights_of_a_bundle_are_an_error(distillkit, bundle):
    done = distillkit("profile", str(bundle), "--weights", "none")
    sentence = f"'{bundle}' has its own weights; leave out --weights, or name a model such as timm:resnet18"
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}\n")


@pytest.mark.skipif(cuda_devices() > 0, reason="there is a GPU")
def test_missing_gpu_is_an_error(distillkit, bundle):
    done = distillkit("profile", str(bundle), "--device", "cuda")
    assert (done.code, done.err) == (2, "error: --device 'cuda' does not exist on this machine; use cpu\n")


def test_unwritable_out_is_an_error_before_measuring(distillkit, bundle):
    done = distillkit("profile", str(bundle), *SHORT, "--out", str(bundle / "bundle.json"))
    sentence = f"--out {bundle}/bundle.json is a file; give a folder for the profile"
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}\n")
    done = distillkit("profile", str(bundle), *SHORT, "--out", str(bundle / "bundle.json" / "below"))
    sentence = f"the profile cannot be written to '{bundle}/bundle.json/below' ('{bundle}/bundle.json' is a file)"
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}; give another folder with --out\n")


def test_baseline_is_checked_before_measuring(distillkit, bundle, tmp_path):
    assert distillkit("profile", str(bundle), *SHORT).code == 0
    file = bundle / "profile" / "profile.json"
    before = file.read_text()
    earlier = tmp_path / "earlier.json"

    def error_for(text):
        earlier.write_text(text)
        done = distillkit("profile", str(bundle), *SHORT, "--baseline", str(earlier))
        assert (done.code, done.out) == (2, "")
        assert file.read_text() == before
        return done.err

    assert error_for("{}") == f"error: '{earlier}' is not a profile; give a JSON file written by `distillkit profile`\n"
    assert error_for("{") == (
        f"error: profile '{earlier}' cannot be read (Expecting property name enclosed in double quotes: line 1 column "
        "2 (char 1)); give a JSON file written by `distillkit profile`\n"
    )
    card = json.loads(before)
    machine = card["machine"] | {"processor": "Z80", "cpus": 1, "gpus": []}
    here = f"{card['machine']['processor']} with {card['machine']['cpus']} CPUs"
    here += "".join(f" and {gpu['name']}" for gpu in card["machine"]["gpus"])
    assert error_for(json.dumps(card | {"machine": machine})) == (
        f"error: the baseline was measured on Z80 with 1 CPUs, but this machine is {here}; measure a baseline here\n"
    )
    rows = [row | {"configuration": "other/torch/fp32"} for row in card["rows"]]
    assert error_for(json.dumps(card | {"rows": rows})) == (
        "error: the baseline has none of the configurations that would be measured, sum/onnxruntime-cpu/fp32; it has "
        "other/torch/fp32\n"
    )


def test_baseline_can_be_the_file_that_is_overwritten(distillkit, bundle):
    assert distillkit("profile", str(bundle), *SHORT).code == 0
    file = bundle / "profile" / "profile.json"
    card = json.loads(file.read_text())
    for row in card["rows"]:
        row["p50_ms"] = 1000.0
    file.write_text(json.dumps(card))
    done = distillkit("profile", str(bundle), *SHORT, "--baseline", str(file))
    assert done.code == 0
    assert "sum/onnxruntime-cpu/fp32, batch 1, e2e: 1e+03 -> " in done.err


def test_measuring_options_without_a_target_to_measure_are_errors(distillkit, bundle):
    assert distillkit("profile", str(bundle), *SHORT).code == 0
    file = str(bundle / "profile" / "profile.json")
    done = distillkit("profile", file, "--runtime", "torch", "--seconds", "1", "--baseline", "torch")
    sentence = (
        "--runtime, --seconds, --baseline: no effect, because every target is an existing profile; "
        "leave it out, or add a target to measure"
    )
    assert (done.code, done.out, done.err) == (2, "", f"error: {sentence}\n")


def test_profile_exits_with_3_if_every_configuration_fails(distillkit, tmp_path):
    done = distillkit("profile", str(write_bundle(tmp_path / "sum", pixels=47)), *SHORT)
    assert done.code == 3
    assert done.err.splitlines()[-1] == (
        "error: nothing was measured, because every configuration failed; see the reasons above"
    )
    assert "* onnxruntime-cpu/fp32: ONNX Runtime cannot load model.onnx: " in done.err


def test_missing_runtime_exits_with_3(distillkit, bundle):
    done = distillkit("profile", str(bundle), "--runtime", "onnxruntime-tensorrt")
    if "TensorrtExecutionProvider" in done.err:
        assert done.code == 3
        assert done.err.startswith("error: runtime 'onnxruntime-tensorrt' does not work here: ")
