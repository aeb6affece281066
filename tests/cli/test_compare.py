"""`distillkit compare` from the command line."""

import json
import shutil

import pytest

from distillkit.recipe.files import with_values


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """Two copies of a run, with other figures, in the folder runs/."""
    monkeypatch.chdir(tmp_path)
    for number, top1 in enumerate((80.0, 90.0)):
        run = tmp_path / "runs" / f"run-{number}"
        shutil.copytree(trained, run)
        (run / "recipe.toml").write_text(with_values(run / "recipe.toml", {"optimizer.lr": 0.001 * (1 + number)}))
        figures = {"test/top1": top1, "test/images": 500.0}
        result = {"steps": 2, "figures": figures, "duration_s": 75.0 + 3600 * number}
        (run / "result.json").write_text(json.dumps(result))
        (run / "metrics.jsonl").write_text('{"kind": "steps", "step": 1.0, "loss": 2.5, "images_per_s": 1234.5}\n')
    return tmp_path / "runs"


TABLES = """\
Keys in which the recipes differ
key           lr=0.001  lr=0.002
optimizer.lr  0.001     0.002

Figures
arm       runs  test top-1 %  difference
lr=0.001     1         80.00    baseline
lr=0.002     1         90.00      +10.00

Cost: GFLOP of one forward pass of an image
arm          time  images/s  steps  images seen  parameters  student GFLOP  teacher GFLOP  run PFLOP
lr=0.001     1:15     1,234      2          128       4,564       4.56e-05              0   1.75e-08
lr=0.002  1:01:15     1,234      2          128       4,564       4.56e-05              0   1.75e-08
"""


def test_tables(distillkit, runs):
    done = distillkit("compare", "runs")
    assert (done.code, done.err) == (0, "")
    assert done.out == TABLES


def test_files(distillkit, runs, tmp_path):
    done = distillkit("compare", "runs/run-0", "runs/run-1", "--baseline", "runs/run-1", "--out", "out", "--json")
    assert done.code == 0, done.err
    assert done.err == "written to out: comparison.json, comparison.md, comparison.html\n"
    content = json.loads(done.out)
    assert content == json.loads((tmp_path / "out/comparison.json").read_text())
    assert (content["baseline"], content["arms"][0]["differences"]["test/top1"]["mean"]) == ("lr=0.002", -10.0)
    assert (tmp_path / "out/comparison.html").read_text().startswith('<!doctype html>\n<html lang="en">')


def test_markdown(distillkit, runs):
    (runs / "run-1" / "result.json").unlink()
    done = distillkit("compare", "runs", "--markdown")
    assert done.code == 0
    assert done.out.startswith("# 1 run on digits\n\n")
    left_out = "left out: runs/run-1: it is not finished, last logged step 1; let it end, or continue it with"
    assert done.err.replace("\n", " ").startswith(left_out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing argument 'RUN' (see distillkit compare --help)"),
        (("nowhere",), "there is no run directory 'nowhere'; check the path"),
        (("runs", "--json", "--markdown"), "give --json or --markdown, not both"),
        (("runs", "--out", "file"), "--out file is a file; give a folder for the comparison"),
        (
            ("runs", "--out", "file/a"),
            "the comparison cannot be written to 'file/a' ('file' is a file); give another folder with --out",
        ),
        (("runs", "--images", "1000"), "--images is 1000; give a number from 1 to 100, or leave it out"),
        (("runs", "--baseline", "x"), "--baseline: unknown arm or run 'x'; known: lr=0.001, lr=0.002"),
    ],
)
def test_bad_input_is_one_sentence(distillkit, runs, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    done = distillkit("compare", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.replace("\n", "") == f"error: {message}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "runs"]
