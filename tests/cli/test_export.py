"""`distillkit export` and `distillkit verify` from end to end on a digits student: what they say, and how they end."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from distillkit_cli.main import command_line
from distillkit_export.gate.limits import DEFAULT, Limits
from tests import forked

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("onnx_functions_parsed_once")


@pytest.fixture(scope="module")
def halves(trained, tmp_path_factory):
    """Its export with a file that passes here and one that does not run here; the code that it ended with."""
    out = tmp_path_factory.mktemp("exports") / "halves"
    return out, command_line(["export", str(trained), "--out", str(out), "--fp16", "--bf16", "--head", "class"])


@pytest.fixture
def copied(halves, tmp_path):
    shutil.copytree(halves[0], tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_does_not_run_here_ends_with_3_and_the_command_for_the_target(distillkit, trained, tmp_path):
    out = tmp_path / "out"
    code, shown, err = distillkit("export", str(trained), "--out", str(out), "--bf16", "--head", "class")
    assert code == 3
    assert shown.splitlines()[0] == f"{out}: 2 files, opset 22, batch x 3 x 8 x 8 images, class head"
    assert shown.splitlines()[3].split()[0::9] == ["model.bf16.onnx", "ungated"]
    assert err == (
        "error: model.bf16.onnx was not gated: CPUExecutionProvider cannot execute it: Could not find an "
        "implementation for Conv(22) node with name 'patch_embed.proj/Conv'; on a machine that executes it run: "
        f"distillkit verify {out}\n"
    )
    assert json.loads((out / "bundle.json").read_text())["artifacts"][1]["gate"] == "ungated"


def test_file_that_fails_ends_with_4_and_lies_aside(distillkit, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(DEFAULT, "int8", Limits(None, 200.0, 0.0, 0.0, 100.0))
    out = tmp_path / "out"
    code, shown, err = distillkit("export", str(trained), "--out", str(out), "--int8", "--json")
    assert code == 4
    said = json.loads(shown)["parity"]["model.int8.onnx"]
    stored = "INT8 weights are stored as float32 behind Q/DQ pairs, which TensorRT and OpenVINO fold"
    assert stored in (out / "parity.md").read_text().splitlines()
    assert err.startswith(
        f"error: model.int8.onnx has an SQNR of {said['sqnr_db']:.1f} dB (at least 200 dB required); the "
        "first layer that differs is "
    )
    assert err.endswith(f"; kept in '{out}/rejected'; files that passed are in '{out}'\n")
    assert (out / "rejected" / "model.int8.onnx").is_file()
    assert [card["file"] for card in json.loads((out / "bundle.json").read_text())["artifacts"]] == ["model.onnx"]
    code, _, err = distillkit("verify", str(out))
    assert (code, err) == (0, "")


def test_earlier_export_stays_without_force(distillkit, halves, trained):
    before = (halves[0] / "bundle.json").read_bytes()
    code, _, err = distillkit("export", str(trained), "--out", str(halves[0]), "--int8")
    assert (code, err) == (
        2,
        f"error: folder '{halves[0]}' already contains an export; give another folder, or --force to replace it\n",
    )
    assert (halves[0] / "bundle.json").read_bytes() == before


def test_verify_finishes_what_the_export_could_not_gate(distillkit, copied):
    pytest.importorskip("openvino")
    code, out, err = distillkit("verify", str(copied))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{copied}: every file matches its SHA-256"
    assert lines[-1].startswith("model.bf16.onnx was ungated and has passed in openvino ")
    assert [card["gate"] for card in json.loads((copied / "bundle.json").read_text())["artifacts"]] == ["passed"] * 3


@pytest.mark.parametrize(
    "given",
    [
        ["--out", "zz"],
        ["--data", "digits"],
        ["--gate-images", "5"],
        ["--gate-images", "1000"],
        ["--head", "class"],
        ["--opset", "20"],
        ["--softmax"],
        ["--image-size", "16"],
    ],
)
def test_what_is_about_a_student_is_refused_on_a_bundle(distillkit, copied, given):
    before = (copied / "bundle.json").read_bytes()
    code, out, err = distillkit("export", str(copied), "--trt", *given)
    assert (code, out) == (2, "")
    assert err == (
        f"error: {given[0]} only applies to exporting a student, but '{copied}' is a bundle, to which formats are "
        f"added in place; leave out {given[0]}\n"
    )
    assert (copied / "bundle.json").read_bytes() == before


def test_setting_of_onnx_is_refused_on_a_bundle(distillkit, copied):
    code, _, err = distillkit("export", str(copied), "--trt", "--set", "onnx.calibrator=entropy")
    assert (code, err) == (
        2,
        f"error: --set onnx.KEY only applies to exporting a student, but '{copied}' is a bundle; leave it out\n",
    )


def test_fusion_of_one_head_is_refused(distillkit, trained, tmp_path):
    asked = ("--out", str(tmp_path / "out"), "--fusion", "softmax")
    for target, options in ((str(trained), ("--head", "class")), ("timm:test_vit", ("--weights", "none"))):
        code, out, err = distillkit("export", target, *asked, *options)
        assert (code, out) == (2, "")
        assert err == (
            f"error: --fusion needs two heads, but '{target}' outputs only its class head; leave out --fusion\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_verify_refuses_a_bundle_that_was_altered(distillkit, copied):
    with (copied / "model.fp16.onnx").open("ab") as file:
        file.write(b"x")
    code, out, err = distillkit("verify", str(copied))
    assert (code, out) == (2, "")
    assert err.endswith(": it was altered or truncated after the export; copy or export the bundle again\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--calibrator", "entropy"], "--calibrator has no effect without INT8; add --int8"),
        (["--calibrator", "entropy", "--fp8"], "--calibrator has no effect without INT8; add --int8"),
        (
            ["--calibration-images", "8", "--bf16"],
            "--calibration-images has no effect without FP16, INT8 or FP8; add --fp16, --int8 or --fp8",
        ),
        (["--gate-images", "0"], "invalid --gate-images 0; give a number of images (1 or more) or all"),
        (
            ["--set", "calibrator=entropy"],
            "--set calibrator has no exporter; write EXPORTER.KEY=VALUE, such as onnx.calibrator=entropy",
        ),
        (["--set", "onnx.calibrater=entropy"], "exporter 'onnx': unknown key 'calibrater'; did you mean 'calibrator'?"),
        (["--set", "robot.joints=2"], "--set robot.KEY has no effect without that format; add --format robot"),
        (["--format", "onxx"], "unknown exporter 'onxx'; did you mean 'onnx'? (known: onnx, tensorrt)"),
        (
            ["--bf16", "--opset", "20"],
            "bf16 needs --opset 22 or later, the first with bf16 convolutions, not 20; leave out --opset",
        ),
    ],
)
def test_mistakes_are_sentences_and_leave_nothing(distillkit, trained, tmp_path, arguments, sentence):
    code, out, err = distillkit("export", str(trained), "--out", str(tmp_path / "out"), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [[], ["timm:test_vit", "--weights", "none"]])
def test_data_that_is_not_there_is_told_of_the_option_that_named_it(distillkit, trained, tmp_path, target):
    named = target or [str(trained)]
    code, out, err = distillkit("export", *named, "--out", str(tmp_path / "out"), "--data", "nowhere")
    assert (code, out) == (2, "")
    assert err == (
        "error: --data: 'nowhere' is neither a folder nor a data set; data sets: digits, folder:<path>, "
        "timm:<data set>\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_model_by_name_has_nothing_to_calibrate_with(distillkit, tmp_path):
    out = tmp_path / "out"
    code, _, err = distillkit("export", "timm:test_vit", "--weights", "none", "--out", str(out), "--int8")
    assert (code, err) == (
        2,
        (
            "error: --int8 needs real images for calibration, but has only crops of two photographs that "
            "scikit-learn ships, because a model by name has no images; give --data DIR\n"
        ),
    )


def test_student_that_fails_at_another_size_is_told_beside_the_parity(distillkit, trained, tmp_path):
    """The run's figure is set high, since two steps teach nothing."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(trained, run)
    result = json.loads((run / "result.json").read_text())
    result["figures"]["test/top1"] = 96.0
    (run / "result.json").write_text(json.dumps(result))
    code, shown, _ = distillkit("export", str(run), "--out", str(out), "--image-size", "12")
    at_12 = json.loads((out / "parity.json").read_text())["files"]["model.onnx"]["accuracy"]["model"]
    note = (
        f"the student has a top-1 accuracy of only {at_12:.1f} % at 12x12 pixels, and 96.0 % at its own 8x8: train a "
        "student for this size, or leave out --image-size"
    )
    assert (code, shown.splitlines()[-1]) == (0, note)
    assert note in (out / "parity.md").read_text().splitlines()
    _, shown, _ = distillkit("export", str(run), "--out", str(tmp_path / "own"))
    assert "the student has a top-1 accuracy" not in shown


def test_folders_of_other_classes_are_told_instead_of_an_accuracy(distillkit, trained, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "gray").save(tmp_path / "pets" / name / "1.png")
    asked = ("--data", str(tmp_path / "pets"), "--out", str(tmp_path / "out"))
    code, shown, _ = distillkit("export", str(trained), *asked)
    note = (
        "accuracy is not measured: the classes of images of 'pets' (ant, bee) are not those of the model (0, 1, 2, "
        "...); give a folder for each class of the model"
    )
    assert (code, shown.splitlines()[-1]) == (0, note)
    assert note in (tmp_path / "out" / "parity.md").read_text().splitlines()


def test_export_that_is_killed_leaves_nothing_that_looks_complete(trained, tmp_path, distillkit):
    """Ended from outside while the manifest, which comes last, is being written."""
    code = f"""
import os
from distillkit_export.pipeline import export
export.write_manifest = lambda *_, **__: os._exit(9)
from distillkit_cli.main import command_line
command_line(["export", {str(trained)!r}, "--out", {str(tmp_path / "out")!r}])
"""
    assert forked.run(["-c", code]).returncode == 9
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.iterdir()
    assert not (left / "bundle.json").exists()
    assert distillkit("verify", str(left)).code == 2
    assert distillkit("export", str(trained), "--out", str(tmp_path / "out")).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
