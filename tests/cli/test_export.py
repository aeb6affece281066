"""`distillkit export` and `distillkit verify` end to end on a digits student: output, files and exit codes."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from distillkit_cli.main import command_line
from distillkit_export.gate.limits import DEFAULT, Limits
from tests import forked
from tests.bf16_cpu import require_bf16

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("onnx_functions_parsed_once")


@pytest.fixture(scope="module")
def halves(trained, tmp_path_factory):
    """An export with a file that passes the gate and one that this machine cannot execute, and its exit code."""
    out = tmp_path_factory.mktemp("exports") / "halves"
    return out, command_line(["export", str(trained), "--out", str(out), "--fp16", "--bf16", "--head", "class"])


@pytest.fixture
def copied(halves, tmp_path):
    shutil.copytree(halves[0], tmp_path / "bundle")
    return tmp_path / "bundle"


def test_pending_file_exits_with_3_and_the_command_for_the_target(distillkit, trained, tmp_path):
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


def test_rejected_file_exits_with_4_and_is_moved_to_rejected(distillkit, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(DEFAULT, "int8", Limits(None, 200.0, 0.0, 0.0, 100.0))
    out = tmp_path / "out"
    code, shown, err = distillkit("export", str(trained), "--out", str(out), "--int8", "--json")
    assert code == 4
    parity = json.loads(shown)["parity"]["model.int8.onnx"]
    assert err.startswith(
        f"error: model.int8.onnx has an SQNR of {parity['sqnr_db']:.1f} dB (at least 200 dB required); the "
        "first layer that differs is "
    )
    assert err.endswith(f"; kept in '{out}/rejected'; files that passed are in '{out}'\n")
    assert (out / "rejected" / "model.int8.onnx").is_file()
    assert [card["file"] for card in json.loads((out / "bundle.json").read_text())["artifacts"]] == ["model.onnx"]
    code, _, err = distillkit("verify", str(out))
    assert (code, err) == (0, "")


def test_existing_export_is_kept_without_force(distillkit, halves, trained):
    before = (halves[0] / "bundle.json").read_bytes()
    code, _, err = distillkit("export", str(trained), "--out", str(halves[0]), "--int8")
    assert (code, err) == (
        2,
        f"error: folder '{halves[0]}' already contains an export; give another folder, or --force to replace it\n",
    )
    assert (halves[0] / "bundle.json").read_bytes() == before


def test_verify_gates_pending_files(distillkit, copied):
    require_bf16()
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
        ["--float-weights", "--int8"],
        ["--gate-images", "5"],
        ["--gate-images", "1000"],
        ["--head", "class"],
        ["--opset", "20"],
        ["--softmax"],
        ["--image-size", "16"],
    ],
)
def test_options_for_students_are_errors_for_a_bundle(distillkit, copied, given):
    before = (copied / "bundle.json").read_bytes()
    code, out, err = distillkit("export", str(copied), "--trt", *given)
    assert (code, out) == (2, "")
    assert err == (
        f"error: {given[0]} only applies to exporting a student, but '{copied}' is a bundle, to which formats are "
        f"added in place; leave out {given[0]}\n"
    )
    assert (copied / "bundle.json").read_bytes() == before


def test_onnx_settings_are_errors_for_a_bundle(distillkit, copied):
    code, _, err = distillkit("export", str(copied), "--trt", "--set", "onnx.calibrator=entropy")
    assert (code, err) == (
        2,
        f"error: --set onnx.KEY only applies to exporting a student, but '{copied}' is a bundle; leave it out\n",
    )


def test_fusion_of_a_single_head_is_an_error(distillkit, trained, tmp_path):
    given = ("--out", str(tmp_path / "out"), "--fusion", "softmax")
    for target, options in ((str(trained), ("--head", "class")), ("timm:test_vit", ("--weights", "none"))):
        code, out, err = distillkit("export", target, *given, *options)
        assert (code, out) == (2, "")
        assert err == (
            f"error: --fusion needs two heads, but '{target}' outputs only its class head; leave out --fusion\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_verify_rejects_an_altered_bundle(distillkit, copied):
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
        (["--float-weights"], "--float-weights has no effect without INT8 or FP8; add --int8 or --fp8"),
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
def test_user_errors_are_one_line_and_write_nothing(distillkit, trained, tmp_path, arguments, sentence):
    code, out, err = distillkit("export", str(trained), "--out", str(tmp_path / "out"), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [[], ["timm:test_vit", "--weights", "none"]])
def test_error_about_missing_data_names_the_option(distillkit, trained, tmp_path, target):
    named = target or [str(trained)]
    code, out, err = distillkit("export", *named, "--out", str(tmp_path / "out"), "--data", "nowhere")
    assert (code, out) == (2, "")
    assert err == (
        "error: --data: 'nowhere' is neither a folder nor a data set; data sets: digits, folder:<path>, "
        "imagenette, timm:<data set>\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_int8_of_a_model_by_name_needs_data(distillkit, tmp_path):
    out = tmp_path / "out"
    code, _, err = distillkit("export", "timm:test_vit", "--weights", "none", "--out", str(out), "--int8")
    assert (code, err) == (
        2,
        (
            "error: --int8 needs real images for calibration, but has only crops of two photographs that "
            "scikit-learn ships, because a model by name has no images; give --data DIR\n"
        ),
    )


def test_report_notes_low_accuracy_at_another_image_size(distillkit, trained, tmp_path):
    """The run's accuracy is edited to 96 %, because two steps of training teach nothing."""
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


def test_report_notes_data_of_other_classes_instead_of_an_accuracy(distillkit, trained, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "gray").save(tmp_path / "pets" / name / "1.png")
    given = ("--data", str(tmp_path / "pets"), "--out", str(tmp_path / "out"))
    code, shown, _ = distillkit("export", str(trained), *given)
    note = (
        "accuracy is not measured: the classes of images of 'pets' (ant, bee) are not those of the model (0, 1, 2, "
        "...); give a folder for each class of the model"
    )
    assert (code, shown.splitlines()[-1]) == (0, note)
    assert note in (tmp_path / "out" / "parity.md").read_text().splitlines()


def test_killed_export_leaves_no_complete_bundle(trained, tmp_path, distillkit):
    """Killed while it writes the manifest, which is written last."""
    code = f"""
import os
from distillkit_export.pipeline import export
export.write_manifest = lambda *_, **__: os._exit(9)
from distillkit_cli.main import command_line
command_line(["export", {str(trained)!r}, "--out", {str(tmp_path / "out")!r}])
"""
    assert forked.run(["-c", code]).returncode == 9
    assert not (tmp_path / "out").exists()
    (left,) = (path for path in tmp_path.iterdir() if path.is_dir())  # next to it is its lock
    assert not (left / "bundle.json").exists()
    assert distillkit("verify", str(left)).code == 2
    assert distillkit("export", str(trained), "--out", str(tmp_path / "out")).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_gate_images_of_verify_need_data(distillkit, tmp_path):
    sentence = "error: --gate-images is the number of images of --data; add --data DIR\n"
    assert distillkit("verify", str(tmp_path), "--gate-images", "5") == (2, "", sentence)


def test_an_absurd_image_size_is_refused(distillkit, trained, tmp_path):
    sentence = "error: image size 100000 is too large; give at most 4,096 pixels per side\n"
    out = tmp_path / "out"
    assert distillkit("export", str(trained), "--image-size", "100000", "--out", str(out)) == (2, "", sentence)
    assert not out.exists()
    code, _, err = distillkit("plan", "--set", "student.image_size=100000")
    assert (code, err) == (
        2,
        "error: student 'deit-ti': 'image_size': 100000 is too large; give at most 4,096 pixels per side\n",
    )
