"""Metrics of the gate, compared with values calculated by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.errors import GateError
from distillkit_export.agreement import Accuracy, accuracy, difference, sqnr_db


def test_metrics_match_values_calculated_by_hand():
    model = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    file = np.array([[3.0, 4.0], [0.5, 0.0]], np.float32)
    found = difference(model, file)
    assert (found.finite, found.max_absolute, found.max_relative) == (True, 2.0, 0.5)
    assert (found.min_cosine, found.top1_agreement) == (0.0, 0.5)
    # 9 + 16 + 4 of signal, 0.25 + 4 of noise.
    assert found.sqnr_db == pytest.approx(10 * math.log10(29 / 4.25))


def test_cosine_of_a_known_angle():
    found = difference(np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 1.0]], np.float32))
    assert found.min_cosine == pytest.approx(2**-0.5)


def test_scores_that_are_all_zero_agree_only_with_zeros():
    zeros, small = np.zeros((1, 3), np.float32), np.full((1, 3), 1e-3, np.float32)
    agreeing, differing = difference(zeros, zeros), difference(zeros, small)
    assert (agreeing.max_relative, agreeing.min_cosine, agreeing.sqnr_db) == (0.0, 1.0, math.inf)
    assert (differing.max_relative, differing.min_cosine, differing.sqnr_db) == (math.inf, 0.0, -math.inf)


def test_one_hundredth_of_the_amplitude_is_forty_decibels_below():
    signal = np.array([3.0, -4.0, 5.0])
    assert sqnr_db(signal, signal * 1.01) == pytest.approx(40)
    assert sqnr_db(signal, signal * np.inf) == -math.inf


def test_embeddings_have_no_top1_agreement():
    outputs = np.array([[1.0, 2.0]], np.float32)
    assert difference(outputs, outputs, classes=False).top1_agreement is None


def test_outputs_of_another_shape_are_refused():
    with pytest.raises(GateError) as error:
        difference(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    assert str(error.value) == "the exported file outputs shape [2, 4], torch [2, 3]"


def one_hot(classes):
    return np.eye(3, dtype=np.float32)[list(classes)]


def test_accuracy_uses_only_labelled_images():
    labels = np.array([0, 1, 2, 0, -1])
    found = accuracy(one_hot([0, 1, 2, 1, 0]), one_hot([0, 2, 1, 0, 1]), labels)
    # The model is right on the first three of four, the file on the first and the fourth.
    assert found == Accuracy(images=4, model=75.0, file=50.0, lost=2, gained=1)
    assert found.drop == 25.0
    # Worked by hand: (2 + 1 - 1/4) / 16 = 0.171875, whose root is 0.41458.
    assert found.drop_error == pytest.approx(41.458, abs=1e-3)


def test_without_labels_there_is_no_accuracy():
    outputs = one_hot([0, 1])
    assert accuracy(outputs, outputs, None) is None
    assert accuracy(outputs, outputs, np.array([-1, -1])) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_drop_error_is_the_standard_error_of_the_paired_differences(pairs):
    """NumPy's standard deviation of the per-image differences, divided by the square root of their number."""
    model_right, file_right = np.array(pairs).T
    labels = np.zeros(len(pairs), np.int64)
    found = accuracy(one_hot(np.where(model_right, 0, 1)), one_hot(np.where(file_right, 0, 1)), labels)
    assert found is not None
    differences = model_right.astype(float) - file_right.astype(float)
    assert found.drop == pytest.approx(100 * differences.mean())
    assert found.drop_error == pytest.approx(100 * differences.std() / math.sqrt(len(pairs)), abs=1e-9)
