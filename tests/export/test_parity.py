"""The figures of the parity check against values worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from distillkit.errors import GateError
from distillkit_export.parity import BatchParity, Parity, compare, measure
from distillkit_export.pictures import Pictures


def pictures(count: int) -> Pictures:
    pixels = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    return Pictures(pixels, "counted")


def report(*, finite: bool = True, relative: float = 0.0, weak: bool = False) -> Parity:
    batch = BatchParity(2, finite, 4e-6, relative, 1.0, 1.0)
    return Parity(1e-4, (batch,), "validation", 2, weak=weak)


def test_figures_by_hand():
    reference = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    exported = np.array([[3.0, 4.0], [0.5, 0.0]], np.float32)
    figures = compare(reference, exported)
    assert figures == BatchParity(
        batch=2, finite=True, max_absolute=2.0, max_relative=0.5, min_cosine=0.0, top1_agreement=0.5
    )


def test_cosine_of_a_known_angle():
    figures = compare(np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 1.0]], np.float32))
    assert figures.min_cosine == pytest.approx(2**-0.5)


def test_scores_that_are_all_zero_agree_only_with_zeros():
    zeros, small = np.zeros((1, 3), np.float32), np.full((1, 3), 1e-3, np.float32)
    agreeing, differing = compare(zeros, zeros), compare(zeros, small)
    assert (agreeing.max_relative, agreeing.min_cosine) == (0.0, 1.0)
    assert (differing.max_relative, differing.min_cosine) == (float("inf"), 0.0)


def test_batches_of_one_size_are_one_row_with_the_worst():
    def scorer(images):
        return np.hstack([images.reshape(-1, 1) + (images.reshape(-1, 1) == 30), np.zeros((len(images), 1))])

    def reference(images):
        return np.hstack([images.reshape(-1, 1), np.zeros((len(images), 1))])

    parity = measure(reference, scorer, pictures(54), 1e-4)
    assert [batch.batch for batch in parity.batches] == [1, 2, 7, 32]
    assert [batch.max_absolute for batch in parity.batches] == [0, 0, 0, 1]
    assert parity.max_relative == pytest.approx(1 / 41)  # images 10 to 41 are one batch


@pytest.mark.parametrize("count", [1, 5, 42, 80])
def test_batches_of_one_two_seven_and_thirty_two_cover_every_image(count):
    asked: list[list[int]] = []

    def scorer(images):
        asked.append([int(image) for image in images.ravel()])
        return images.reshape(-1, 1)

    measure(lambda images: images.reshape(-1, 1), scorer, pictures(count), 1e-4)
    assert [len(batch) for batch in asked[:4]] == [1, 2, 7, 32]
    assert {len(batch) for batch in asked} == {1, 2, 7, 32}
    assert {image for batch in asked for image in batch} == set(range(count))


def test_gate_names_figure_limit_and_batch():
    parity = measure(
        lambda images: images.reshape(-1, 1) + 1, lambda images: images.reshape(-1, 1) + 2, pictures(1), 1e-4
    )
    assert not parity.passed
    with pytest.raises(GateError) as error:
        parity.require("model.onnx")
    assert str(error.value) == "model.onnx differs from torch by 1 of the largest score at batch 1, the limit is 0.0001"


def test_gate_refuses_numbers_that_are_not_finite():
    parity = measure(
        lambda images: images.reshape(-1, 1), lambda images: images.reshape(-1, 1) * np.nan, pictures(3), 1e-4
    )
    assert not parity.passed
    with pytest.raises(GateError) as error:
        parity.require("model.onnx")
    assert str(error.value) == "model.onnx answers a batch of 1 with numbers that are not finite"
    assert json.loads(json.dumps(parity.as_dict(), allow_nan=False))["max_relative"] is None


def test_model_without_finite_answers_is_not_measured():
    with pytest.raises(GateError) as error:
        measure(lambda images: images * np.nan, lambda images: images, pictures(3), 1e-4)
    assert str(error.value) == (
        "the model itself answers with numbers that are not finite, so nothing can be compared; "
        "export another checkpoint or train it again"
    )


def test_answers_of_another_shape_are_refused():
    with pytest.raises(GateError) as error:
        compare(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    assert str(error.value) == "the exported file answers with shape [2, 4], torch with [2, 3]"


def test_table_as_a_terminal_shows_it():
    assert report(relative=2.5e-6).lines() == [
        "batch   max abs   max rel  min cosine  top-1 agreement",
        "    2   4.0e-06   2.5e-06   1.0000000           100.0%",
        "parity passed: 2.5e-06 of the largest score, limit 1e-04, on 2 images (validation)",
    ]


def test_one_image_is_not_called_images():
    assert replace(report(), image_count=1).lines()[-1] == (
        "parity passed: 0.0e+00 of the largest score, limit 1e-04, on 1 image (validation)"
    )


def test_table_says_failed_and_weak():
    assert report(relative=0.2, weak=True).lines()[-1] == (
        "parity failed: 2.0e-01 of the largest score, limit 1e-04, on 2 images (validation); "
        "weak: give real validation data for a stronger check"
    )
