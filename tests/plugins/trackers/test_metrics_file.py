"""metrics.jsonl and the report made from it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from distillkit import BrokenImage, Incidents, ModelSpec, RunInfo, RunModels, read_metrics
from distillkit_plugins.trackers.curves import draw_curves
from distillkit_plugins.trackers.gradient_norms_section import marker_of
from distillkit_plugins.trackers.metrics_file import MetricsFile
from distillkit_plugins.trackers.report import Report

PLAN = {
    "student": {
        "name": "deit-ti",
        "parameters": 1000,
        "image_size": [8, 8],
        "starts_from": "runs/a",
        "layers": 4,
        "width": 64,
        "heads": 2,
        "grid": [2, 2],
    },
    "teachers": [{"name": "cnn", "parameters": 2000, "sees": [8, 8], "licence": "apache-2.0"}],
    "loss": "0.5 * labels + 0.5 * hard",
    "samples_per_step": 64,
    "learning_rate": 0.00025,
    "seed": 3,
    "precision": "float32",
    "device": "cpu",
    "data": {"train": "digits", "images": 100, "labelled": 40},
    "cost": {"student_gflop_per_image": 0.01, "teacher_gflop_per_image": 0.1234},
    "notes": ["a note"],
}


CNN = ModelSpec("cnn", "cnn", "cnn", 10, frozenset(), (8, 8))
MODELS = RunModels(SimpleNamespace(spec=CNN), {}, None)
"""A student without readable attention, so that the report draws none and loads no image."""


def info(directory: Path, start_step: int = 0) -> RunInfo:
    return RunInfo(directory, {}, PLAN, steps=20, steps_per_epoch=10, start_step=start_step)


def steps(step: float, loss: float) -> dict[str, float]:
    return {"step": step, "epoch": step / 10, "loss": loss, "loss/labels": loss, "images_per_s": 50.0, "data_wait": 0.1}


def test_records_are_appended_in_order(tmp_path: Path) -> None:
    tracker = MetricsFile()
    tracker.distillkit_run_started(info(tmp_path))
    tracker.distillkit_steps_logged(steps(5.0, 2.0))
    tracker.distillkit_noted(10, "an image is broken")
    tracker.distillkit_epoch_ended({"step": 10.0, "epoch": 1.0})
    tracker.distillkit_run_failed(KeyboardInterrupt())
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["steps", "note", "epoch", "failed"]


def test_a_resumed_run_drops_records_after_its_checkpoint(tmp_path: Path) -> None:
    tracker = MetricsFile()
    tracker.distillkit_run_started(info(tmp_path))
    for step in (5.0, 10.0, 15.0):
        tracker.distillkit_steps_logged(steps(step, 1.0))
    tracker.distillkit_run_failed(ValueError("no"))
    MetricsFile().distillkit_run_started(info(tmp_path, start_step=10))
    assert [record["step"] for record in read_metrics(tmp_path)] == [5.0, 10.0]


def test_a_run_that_starts_again_before_its_first_checkpoint_repeats_no_note(tmp_path: Path) -> None:
    for _ in range(3):
        tracker = MetricsFile()
        tracker.distillkit_run_started(info(tmp_path))
        tracker.distillkit_noted(0, "the teacher guesses")
    assert [record["note"] for record in read_metrics(tmp_path)] == ["the teacher guesses"]


def test_a_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "steps", "step": 1.0}\n{"kind": "st')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1.0]


@pytest.fixture
def report(tmp_path: Path) -> str:
    tracker = MetricsFile()
    tracker.distillkit_run_started(info(tmp_path))
    tracker.distillkit_steps_logged(steps(10.0, 2.0))
    tracker.distillkit_epoch_ended({"step": 10.0, "epoch": 1.0, "validation/top1": 50.0, "validation/class_top1": 50.0})
    tracker.distillkit_steps_logged(steps(20.0, 1.0))
    figures = {"class_top1": 88.0, "distill_top1": 89.0, "fused_logits_top1": 90.0, "fused_softmax_top1": 91.0}
    record = {f"test/{name}": value for name, value in figures.items()} | {"test/top1": 90.0, "test/images": 500.0}
    record |= {"best/validation_top1": 93.5, "best/step": 10.0}
    started = {"started": "2026-01-02T03:04:05+00:00", "command": "distillkit run"}
    (tmp_path / "environment.json").write_text(json.dumps(started))
    Report().distillkit_run_ended(info(tmp_path), record, MODELS)
    page = (tmp_path / "report.md").read_text()
    page = re.sub(r"\| finished \| \S+ \|", "| finished | (now) |", page)
    return re.sub(r"\| duration \| .+ \|", "| duration | (long) |", page)


def test_the_complete_report(report: str) -> None:
    assert (
        report
        == """# deit-ti distilled from cnn

`loss = 0.5 * labels + 0.5 * hard`, 20 optimiser steps of 64 images on digits (100 images, 40 labelled).

## Results

| top-1 (%) | test |
| --- | ---: |
| class head | 88.00 |
| distillation head | 89.00 |
| fused (mean of logits) | 90.00 |
| fused (sum of softmaxes) | 91.00 |
| **student's prediction** | 90.00 |
| images | 500 |

Best on validation: 93.50 % after step 10, kept in `best/`. The table shows the student after the last step.

## Curves

![loss and accuracy over the run](curves.png)

Throughput: 50 images/s (median over the log intervals). Waiting for data: 10 % of the time.

## Models

| | name | parameters | image size | GFLOP per image | weights |
| --- | --- | ---: | --- | ---: | --- |
| student | deit-ti | 1,000 | 8x8 | 0.01 | trained here, from runs/a |
| teacher | cnn | 2,000 | 8x8 | 0.123 | apache-2.0 |

Student: 4 layers, width 64, 2 heads, grid 2x2. Learning rate 0.00025, seed 3, float32 on cpu.

## Notes

- a note

## Run

| | |
| --- | --- |
| command | distillkit run |
| started | 2026-01-02T03:04:05+00:00 |
| duration | (long) |
| finished | (now) |
| seed | 3 |
| total | 1.0000 |
| labels | 1.0000 |

## Next

```
distillkit evaluate <this directory>
distillkit export <this directory>
```

The resolved recipe is `recipe.toml`; `environment.json` has the versions.
"""
    )


def test_the_page_has_the_same_content(report: str, tmp_path: Path) -> None:
    page = (tmp_path / "report.html").read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == re.findall(r"^## (.*)$", report, re.MULTILINE)
    assert [number for number in ("88.00", "89.00", "90.00", "91.00", "93.50 %", "1.0000") if number not in page] == []
    # The losses from step 10 to 20, and the accuracy of a single epoch.
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == ["Loss", "Validation accuracy"]
    assert "Last values: total 1, labels 1." in page
    assert "<img" not in page


def test_a_page_that_cannot_be_written_fails_no_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    Report().distillkit_run_ended(info(tmp_path), {}, MODELS)
    assert (tmp_path / "report.md").is_file()


def test_the_report_counts_incidents(tmp_path: Path) -> None:
    images = [("train", "a", "empty"), ("train", "b", "truncated"), ("test", "c", "empty")]
    incidents = Incidents((BrokenImage(*image, reason="why") for image in images), skipped=[7, 1200])
    MetricsFile().distillkit_run_started(info(tmp_path))
    Report().distillkit_run_ended(replace(info(tmp_path), incidents=incidents), {}, MODELS)
    assert """## Incidents

3 images could not be read. Training used other images instead, evaluation left them out. `incidents.json` \
lists them all.

| unreadable images | test | train |
| --- | ---: | ---: |
| empty | 1 | 1 |
| truncated | 0 | 1 |

2 steps did not update the weights because loss or gradient was not finite: 7, 1,200.

## Notes
""" in (tmp_path / "report.md").read_text()


def test_without_accuracy_the_report_does_not_suggest_evaluate(tmp_path: Path) -> None:
    Report().distillkit_run_ended(info(tmp_path), {}, MODELS)
    page = (tmp_path / "report.md").read_text()
    assert "No labelled validation or test images, so there is no accuracy to report." in page
    assert page.endswith(
        "```\ndistillkit export <this directory>\n```\n\n"
        "The resolved recipe is `recipe.toml`; `environment.json` has the versions.\n"
    )


def test_several_terms_have_a_panel_and_a_table_of_gradient_norms(tmp_path: Path) -> None:
    """Of seven records the second has an infinite norm, as in half precision; five of the other six are shown."""
    tracker = MetricsFile()
    tracker.distillkit_run_started(info(tmp_path))
    for number, at in enumerate((1, 2, 4, 8, 12, 16, 20)):
        norms = {"grad_norm/labels": 3.0, "grad_norm/hard/hard": 2.0**-number, "grad_norm/hard/own": 0.0}
        if at == 2:
            norms["grad_norm/labels"] = float("inf")
        tracker.distillkit_steps_logged(steps(float(at), 1.0) | {"grad_norm": 1.0} | norms)
    Report().distillkit_run_ended(info(tmp_path), {}, MODELS)
    section = (tmp_path / "report.md").read_text().partition("## Gradient norms\n\n")[2].partition("\n\n## Models")[0]
    assert section == (
        "Gradient of each loss term times its weight, with respect to the student's parameters: L2 norm, and share of "
        "the sum of the norms. Measured at the single step named, before clipping.\n\n"
        "| term | step 1 | step 4 | step 8 | step 16 | step 20 |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| labels | 3 (75.0 %) | 3 (92.3 %) | 3 (96.0 %) | 3 (99.0 %) | 3 (99.5 %) |\n"
        "| hard | 1 (25.0 %) | 0.25 (7.7 %) | 0.125 (4.0 %) | 0.0312 (1.0 %) | 0.0156 (0.5 %) |\n"
        "| hard/own | 0 (0.0 %) | 0 (0.0 %) | 0 (0.0 %) | 0 (0.0 %) | 0 (0.0 %) |"
    )
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1200, 432)


def test_without_accuracy_there_is_no_empty_panel(tmp_path: Path) -> None:
    tracker = MetricsFile()
    tracker.distillkit_run_started(info(tmp_path))
    tracker.distillkit_steps_logged(steps(1.0, 1.0))
    Report().distillkit_run_ended(info(tmp_path), {}, MODELS)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (600, 432)


def test_the_curves_are_a_figure(report: str, tmp_path: Path) -> None:
    assert "curves.png" in report
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1200, 432)


def test_a_curve_of_a_single_point_is_visible(tmp_path: Path) -> None:
    """The same point alone and twice: without a marker the first picture would show empty axes."""
    epoch = {"step": 4.0, "validation/class_top1": 50.0}
    point = steps(4.0, 1.0) | {"grad_norm": 1.0, "grad_norm/labels": 1.0}
    draw_curves(tmp_path / "one.png", [point], [epoch])
    assert marker_of([point]) == "o"
    assert marker_of([point, point]) is None
    with Image.open(tmp_path / "one.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=2**20) or []
    blue = [count for count, (red, green, blue) in colours if blue > 150 > green > red]
    assert sum(blue) > 100  # three dots of 6 points at 120 dpi, and the legends
