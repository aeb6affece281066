"""`distillkit bench` from the command line."""

import json

import pytest

TINY = (
    *("--teacher", "timm:test_resnet", "--student", "timm:test_efficientnet", "--image-size", "32", "--batch", "2"),
    *("--device", "cpu", "--workers", "0", "--rounds", "2"),
)
ARMS = "bank, deit, live, minimal, student, timm, timm-bf16"


def test_table_and_files(distillkit, tmp_path):
    done = distillkit("bench", *TINY, "--arms", "bank,student", "--out", str(tmp_path / "new"))
    assert done.code == 0, done.err
    machine, conditions, heading, *rows = done.out.splitlines()
    assert " CPUs on " in machine
    pair = "timm:test_resnet teaches timm:test_efficientnet (hard)"
    assert conditions.startswith(f"{pair}: 32x32 px, batch 2, float32, cpu, ")
    assert " ".join(heading.split()) == "arm ms per image images/s share of peak time, ratio to bank"
    assert [row.split()[0] for row in rows] == ["student", "bank", "bank"]
    assert f"written to {tmp_path / 'new'}: bench.json, bench.md, bench.png" in done.err.replace("\n", "")
    written = json.loads((tmp_path / "new/bench.json").read_text())
    assert [arm["arm"] for arm in written["arms"]] == ["student", "bank"]
    assert (tmp_path / "new/bench.png").read_bytes().startswith(b"\x89PNG")
    assert "| student | " in (tmp_path / "new/bench.md").read_text()


def test_json(distillkit):
    done = distillkit("--quiet", "bench", *TINY, "--arms", "timm-bf16,student", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert (found["kind"], found["reference"], found["loader"]["arm"]) == ("distillkit bench", "student", "student")
    assert found["skipped"] == {"timm-bf16": "timm has no hard distillation for a student with one head"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arms", "tim"), f"--arms: unknown arm 'tim'; did you mean 'timm'? (known: {ARMS})"),
        (("--arms", "bank,"), f"--arms: unknown arm ''; known: {ARMS}"),
        (("--arms", "deit"), "arm 'deit' needs a clone of facebookresearch/deit; give it with --deit DIR"),
        (("--deit", "nowhere"), "--deit nowhere: no such folder; give a clone of facebookresearch/deit"),
        (("--deit", "."), "--deit . has no engine.py; give a clone of facebookresearch/deit"),
        (("--minutes", "nan"), "--minutes is nan; give a number above 0"),
        (("--minutes", "0"), "--minutes is 0; give a number above 0"),
        (
            ("--rounds", "1"),
            "invalid value for '--rounds': Input should be greater than or equal to 2 (see distillkit bench --help)",
        ),
        (
            ("--batch", "1"),
            "invalid value for '--batch': Input should be greater than or equal to 2 (see distillkit bench --help)",
        ),
        (
            ("--workers", "1025"),
            "invalid value for '--workers': Input should be less than or equal to 1024 (see distillkit bench --help)",
        ),
        (("--device", "gpu"), "--device is 'gpu'; use auto, cpu, cuda, cuda:1 or mps"),
        (
            ("--student", "vit-ti", "--image-size", "30"),
            "--image-size = 30 is not divisible by student.patch = 16; 16 or 32 would be",
        ),
        (("--student", "timm:"), "student 'timm' needs a name after the colon: timm:<any classifier>"),
        (("--out", "file"), "--out file is a file; give a folder for the result"),
    ],
)
def test_bad_input_is_one_sentence(distillkit, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    done = distillkit("bench", *arguments)
    assert (done.code, done.out, done.err.replace("\n", " ").strip()) == (2, "", f"error: {message}")
