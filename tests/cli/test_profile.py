"""`distillkit profile` from the command line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from distillkit.contracts import ModelSpec, Signal
from distillkit.exporting import ExportRequest
from distillkit_cli.profile_progress import ProfileBar, ProfileLines
from distillkit_cli.terminal import Terminal
from distillkit_export.bundle import ArtifactCard, describe, write_manifest

SHORT = ("--batches", "1,2", "--seconds", "0.05", "--rounds", "2", "--runtime", "onnxruntime-cpu")

PEAK = ("peak", "MiB")


@pytest.fixture
def bundle(tmp_path):
    """A model that sums its pixels; no torch takes part."""
    spec = ModelSpec("sum", "sum", "other", 2, frozenset({Signal.LOGITS}), (4, 4))
    weights = onnx.numpy_helper.from_array(np.ones((48, 2), np.float32), "weights")
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
    folder = tmp_path / "sum"
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


def test_json_is_the_profile_that_is_written(distillkit, bundle):
    done = distillkit("profile", str(bundle), *SHORT, "--mode", "both", "--json")
    assert done.code == 0, done.err
    (shown,) = json.loads(done.out)["profiles"]
    assert shown == json.loads((bundle / "profile" / "profile.json").read_text())
    assert {row["mode"] for row in shown["rows"]} == {"compute", "e2e"}


def test_regression_exits_with_4_and_the_same_speed_with_0(distillkit, bundle, tmp_path):
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batches", "1,x"], "--batches is '1,x'; give auto, or sizes such as 1,8,32"),
        (["--batches", "0"], "--batches is '0'; give auto, or sizes such as 1,8,32"),
        (["--rounds", "0"], "--rounds and --seconds must be more than 0"),
        (["--runtime", "onnxruntime-cpuu"], "unknown runtime 'onnxruntime-cpuu'"),
        (["--precision", "fp23"], "unknown precision 'fp23'"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_with_2(distillkit, bundle, arguments, sentence):
    done = distillkit("profile", str(bundle), *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")


def test_runtime_that_is_missing_here_exits_with_3(distillkit, bundle):
    done = distillkit("profile", str(bundle), "--runtime", "onnxruntime-tensorrt")
    if "TensorrtExecutionProvider" in done.err:
        assert done.code == 3
        assert done.err.startswith("error: runtime 'onnxruntime-tensorrt' does not work here: ")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_progress_says_what_the_rate_and_the_time_left_at_most_every_ten_seconds(capsys):
    clock = Clock()
    display = ProfileLines(Terminal(), clock)
    display.begin("loading a")
    for step in range(1, 5):
        clock.now += 6.0
        display.done(step, 10)
    display.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 2/10: loading a; 10 steps/min, 0:00:48 left",
        "step 4/10: loading a; 10 steps/min, 0:00:36 left",
    ]


def test_bar_takes_itself_away():
    display = ProfileBar(Terminal(), Clock())
    display.begin("loading a")
    display.done(1, 4)
    display.close()
    display.close()
