"""Parity of a file: its batches, metrics and limits."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from distillkit.errors import GateError
from distillkit_export.agreement import Accuracy, Difference
from distillkit_export.gate.limits import DEFAULT, TOLERANCES
from distillkit_export.gate.parity import Parity, Reference, measure, reference_outputs
from distillkit_export.images.gate_images import ImageSet


def image_set(count, **facts):
    return ImageSet(np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1), "counted", **facts)


def flat(images):
    return images.reshape(-1, 1)


def with_zeros(images):
    return np.hstack([flat(images), np.zeros((len(images), 1), np.float32)])


def measured(model, file, count, **facts):
    return measure(file, reference_outputs(model, image_set(count, **facts), "torch"))


def parity(precision="int8", count=1000, accuracy=None, **figures):
    clean = Difference(
        finite=True, max_absolute=1e-6, max_relative=1e-6, min_cosine=1.0, sqnr_db=130.0, top1_agreement=1.0
    )
    overall = replace(clean, **figures)
    return Parity(
        precision, DEFAULT[precision], overall, {1: overall}, "somewhere", count, weak=False, accuracy=accuracy
    )


def test_batches_of_one_size_are_one_row_with_the_worst():
    found = measured(with_zeros, lambda images: with_zeros(images + (images == 30)), 54)
    assert list(found.batches) == [1, 2, 7, 32]
    assert [batch.max_absolute for batch in found.batches.values()] == [0, 0, 0, 1]
    assert found.max_relative == pytest.approx(1 / 41)  # images 10 to 41 are one batch


@pytest.mark.parametrize("count", [1, 5, 42, 80])
def test_batches_of_one_two_seven_and_thirty_two_cover_every_image(count):
    seen: list[list[int]] = []

    def file(images):
        seen.append([int(image) for image in images.ravel()])
        return flat(images)

    measured(flat, file, count)
    assert [len(batch) for batch in seen[:4]] == [1, 2, 7, 32]
    assert {len(batch) for batch in seen} == {1, 2, 7, 32}
    assert {image for batch in seen for image in batch} == set(range(count))


def test_images_that_are_repeated_count_once():
    labels = np.array([0, 1, 1])
    found = measured(with_zeros, lambda images: -with_zeros(images), 3, labels=labels)
    # Image 0 has equal scores, so its best class is 0 in both; the file swaps the classes of the other two.
    assert found.overall.top1_agreement == pytest.approx(1 / 3)
    assert found.accuracy is not None
    assert (found.accuracy.images, found.accuracy.lost, found.accuracy.gained) == (3, 0, 2)


def test_batches_of_other_image_sizes_are_measured_too():
    others = (np.full((1, 1, 2, 1), 5, np.float32),)

    def total(images):
        return images.sum(axis=(1, 2, 3))[:, None]

    found = measured(total, lambda images: total(images) + (images.shape[2] == 2), 50, other_sizes=others)
    assert found.batches[1].max_relative == 0.1
    assert found.max_relative == 0.1


def test_relative_difference_names_value_limit_and_batch():
    found = measured(lambda images: flat(images) + 1, lambda images: flat(images) + 2, 1)
    assert found.failures()[0] == "differs from torch by 1 of the largest score at batch 1 (limit 0.0001)"


def test_nonfinite_outputs_are_the_only_failure():
    found = measured(flat, lambda images: flat(images) * np.nan, 3)
    assert found.failures() == ["outputs NaN or infinity for a batch of 1"]
    report = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (report["passed"], report["max_relative"], report["sqnr_db"]) == (False, None, None)


def test_model_with_nonfinite_outputs_is_refused():
    with pytest.raises(GateError) as error:
        reference_outputs(lambda images: images * np.nan, image_set(3), "torch")
    assert str(error.value) == (
        "the model itself outputs NaN or infinity, so nothing can be compared; "
        "export another checkpoint or train it again"
    )


def test_file_within_its_limits_passes():
    assert parity("int8", max_relative=0.5, sqnr_db=20.0, top1_agreement=0.95).passed
    assert parity("fp32").passed


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"sqnr_db": 14.64}, "has an SQNR of 14.6 dB (at least 20 dB required)"),
        (
            {"top1_agreement": 0.845},
            "agrees with torch on the top-1 class of 84.5% of 1,000 images (at least 95.0% required)",
        ),
        (
            {"top1_agreement": None, "min_cosine": 0.9712},
            "has a cosine similarity of 0.97120 to the embeddings of torch (at least 0.98 required)",
        ),
        (
            {"accuracy": Accuracy(images=1000, model=51.0, file=49.9, lost=21, gained=10)},
            (
                "has a top-1 accuracy of 49.9 % on 1,000 labelled images, torch 51.0 %: a drop of 1.1 ± 0.6 points "
                "(limit 1)"
            ),
        ),
    ],
)
def test_every_limit_has_its_message(figures, message):
    assert parity("int8", **figures).failures() == [message]


def test_cosine_limit_does_not_apply_to_class_scores():
    assert parity("int8", min_cosine=0.5).passed


def test_higher_accuracy_passes():
    assert parity("int8", accuracy=Accuracy(images=1000, model=40.0, file=55.0, lost=0, gained=150)).passed


def test_one_image_may_always_differ():
    one_lost = Accuracy(images=36, model=100.0, file=100 * 35 / 36, lost=1, gained=0)
    two_lost = Accuracy(images=36, model=100.0, file=100 * 34 / 36, lost=2, gained=0)
    assert parity("int8", 36, one_lost, top1_agreement=35 / 36).passed
    assert parity("fp16", 36, top1_agreement=35 / 36).passed
    assert not parity("int8", 36, two_lost).passed
    assert not parity("fp16", 36, top1_agreement=34 / 36).passed


@pytest.mark.parametrize("precision", DEFAULT)
def test_strict_is_stricter_and_loose_is_looser(precision):
    strict, default, loose = (TOLERANCES[name][precision] for name in ("strict", "default", "loose"))
    for tighter, wider in ((strict, default), (default, loose)):
        assert (tighter.max_relative or 0) <= (wider.max_relative or math.inf)
        assert tighter.min_sqnr_db > wider.min_sqnr_db
        assert tighter.min_cosine > wider.min_cosine
        assert tighter.min_agreement >= wider.min_agreement
        assert tighter.max_accuracy_drop <= wider.max_accuracy_drop


def test_int8_may_lose_one_point_of_accuracy_and_no_more():
    assert DEFAULT["int8"].max_accuracy_drop == 1.0
    kept = Accuracy(images=1000, model=51.0, file=50.0, lost=10, gained=0)
    assert parity("int8", accuracy=kept).passed
    assert not parity("int8", accuracy=replace(kept, file=49.9, lost=11)).passed


def test_reference_keeps_the_outputs_in_the_order_of_the_images():
    found = reference_outputs(flat, image_set(70), "torch")
    assert isinstance(found, Reference)
    assert found.outputs.ravel().tolist() == list(range(70))
