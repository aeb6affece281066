"""Note on the accuracy of a student at another image size."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from distillkit.running.directory import RunDirectory
from distillkit_export.gate.accuracy_at_size import RunAccuracy, accuracy_loss_note, read_run_accuracy

OWN, OTHER = (8, 8), (12, 16)


def reference(right, wrong, unlabelled=0):
    """The model's outputs for images that it classifies rightly and wrongly, and for images without a label."""
    labels = np.array([0] * right + [1] * wrong + [-1] * unlabelled)
    outputs = np.tile(np.array([1.0, 0.0], np.float32), (len(labels), 1))
    return SimpleNamespace(images=SimpleNamespace(labels=labels), outputs=outputs)


@pytest.mark.parametrize(
    ("right", "wrong", "own", "is_noted"),
    [
        (900, 100, 95.1, True),  # 5.1 points, and 2.33 standard errors are 2.2 points
        (900, 100, 94.9, False),
        (90, 10, 96.9, False),  # 2.33 standard errors of 100 images are 7.0 points
        (90, 10, 97.1, True),
        (900, 100, 50.0, False),
    ],
)
def test_a_loss_is_noted_from_5_points_if_it_is_no_accident(right, wrong, own, is_noted):
    note = accuracy_loss_note(reference(right, wrong, unlabelled=50), OTHER, RunAccuracy(own, OWN))
    assert bool(note) is is_noted
    if is_noted:
        assert " 90.0 % at 12x16 pixels" in note
        assert f" {own:.1f} % at its own 8x8: " in note


@pytest.mark.parametrize(
    ("labels", "size", "measured"),
    [
        (reference(0, 100), OWN, RunAccuracy(99.0, OWN)),
        (reference(0, 100), OTHER, None),
        (reference(0, 0, unlabelled=100), OTHER, RunAccuracy(99.0, OWN)),
        (SimpleNamespace(images=SimpleNamespace(labels=None), outputs=None), OTHER, RunAccuracy(99.0, OWN)),
    ],
    ids=["own size", "not measured", "no label", "no labels"],
)
def test_without_a_comparison_there_is_no_note(labels, size, measured):
    assert accuracy_loss_note(labels, size, measured) == ""


def test_accuracy_is_read_from_the_result_of_the_run(tmp_path):
    run = RunDirectory(tmp_path)
    assert read_run_accuracy(run, OWN) is None
    run.result.write_text(json.dumps({"figures": {"validation/top1": 91.0}}))
    assert read_run_accuracy(run, OWN) is None
    run.result.write_text(json.dumps({"figures": {"validation/top1": 91.0, "test/top1": 92.5}}))
    assert read_run_accuracy(run, OWN) == RunAccuracy(92.5, OWN)
