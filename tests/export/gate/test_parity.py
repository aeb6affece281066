"""What is asked of a file, and the limits that its figures are held against."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from distillkit.errors import GateError
from distillkit_export.agreement import Accuracy, Difference
from distillkit_export.gate.limits import DEFAULT, TOLERANCES
from distillkit_export.gate.parity import Evidence, Parity, evidence, measure
from distillkit_export.images.gate_images import Pictures


def pictures(count, **facts):
    return Pictures(np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1), "counted", **facts)


def flat(images):
    return images.reshape(-1, 1)


def with_zeros(images):
    return np.hstack([flat(images), np.zeros((len(images), 1), np.float32)])


def asked(model, file, count, **facts):
    return measure(file, evidence(model, pictures(count, **facts), "torch"))


def parity(precision="int8", count=1000, accuracy=None, **figures):
    clean = Difference(
        finite=True, max_absolute=1e-6, max_relative=1e-6, min_cosine=1.0, sqnr_db=130.0, top1_agreement=1.0
    )
    overall = replace(clean, **figures)
    return Parity(
        precision, DEFAULT[precision], overall, {1: overall}, "somewhere", count, weak=False, accuracy=accuracy
    )


def test_batches_of_one_size_are_one_row_with_the_worst():
    found = asked(with_zeros, lambda images: with_zeros(images + (images == 30)), 54)
    assert list(found.batches) == [1, 2, 7, 32]
    assert [batch.max_absolute for batch in found.batches.values()] == [0, 0, 0, 1]
    assert found.max_relative == pytest.approx(1 / 41)  # images 10 to 41 are one batch


@pytest.mark.parametrize("count", [1, 5, 42, 80])
def test_batches_of_one_two_seven_and_thirty_two_cover_every_image(count):
    seen: list[list[int]] = []

    def file(images):
        seen.append([int(image) for image in images.ravel()])
        return flat(images)

    asked(flat, file, count)
    assert [len(batch) for batch in seen[:4]] == [1, 2, 7, 32]
    assert {len(batch) for batch in seen} == {1, 2, 7, 32}
    assert {image for batch in seen for image in batch} == set(range(count))


def test_images_that_come_round_again_count_once():
    labels = np.array([0, 1, 1])
    found = asked(with_zeros, lambda images: -with_zeros(images), 3, labels=labels)
    # Image 0 has equal scores, so its best class is 0 in both; the file turns the other two round.
    assert found.overall.top1_agreement == pytest.approx(1 / 3)
    assert found.accuracy is not None
    assert (found.accuracy.images, found.accuracy.lost, found.accuracy.gained) == (3, 0, 2)


def test_batches_of_other_sizes_are_asked_too():
    others = (np.full((1, 1, 2, 1), 5, np.float32),)

    def total(images):
        return images.sum(axis=(1, 2, 3))[:, None]

    found = asked(total, lambda images: total(images) + (images.shape[2] == 2), 50, others=others)
    assert found.batches[1].max_relative == 0.1
    assert found.max_relative == 0.1


def test_relative_difference_names_figure_limit_and_batch():
    found = asked(lambda images: flat(images) + 1, lambda images: flat(images) + 2, 1)
    assert found.failures()[0] == "differs from torch by 1 of the largest score at batch 1, the limit is 0.0001"


def test_numbers_that_are_not_finite_are_the_only_failure():
    found = asked(flat, lambda images: flat(images) * np.nan, 3)
    assert found.failures() == ["answers a batch of 1 with numbers that are not finite"]
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (said["passed"], said["max_relative"], said["sqnr_db"]) == (False, None, None)


def test_model_without_finite_answers_is_not_measured():
    with pytest.raises(GateError) as error:
        evidence(lambda images: images * np.nan, pictures(3), "torch")
    assert str(error.value) == (
        "the model itself answers with numbers that are not finite, so nothing can be compared; "
        "export another checkpoint or train it again"
    )


def test_file_that_keeps_to_its_limits_passes():
    assert parity("int8", max_relative=0.5, sqnr_db=20.0, top1_agreement=0.95).passed
    assert parity("fp32").passed


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"sqnr_db": 14.64}, "has 14.6 dB of signal over noise, at least 20 dB are asked"),
        (
            {"top1_agreement": 0.845},
            "agrees with torch on the best class of 84.5% of 1,000 images, at least 95.0% is asked",
        ),
        (
            {"top1_agreement": None, "min_cosine": 0.9712},
            "has an embedding at a cosine of 0.97120 to torch's, at least 0.98 is asked",
        ),
        (
            {"accuracy": Accuracy(images=1000, model=51.0, file=49.9, lost=21, gained=10)},
            (
                "is right on 49.9 % of 1,000 labelled images where torch is on 51.0 %, a loss of 1.1 ± 0.6 points, the "
                "limit is 1"
            ),
        ),
    ],
)
def test_every_limit_has_its_sentence(figures, sentence):
    assert parity("int8", **figures).failures() == [sentence]


def test_classes_are_judged_by_their_agreement_and_not_by_one_cosine():
    assert parity("int8", min_cosine=0.5).passed


def test_accuracy_may_rise():
    assert parity("int8", accuracy=Accuracy(images=1000, model=40.0, file=55.0, lost=0, gained=150)).passed


def test_one_image_may_always_differ_since_a_share_cannot_be_finer():
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


def test_evidence_keeps_the_answers_in_the_order_of_the_images():
    found = evidence(flat, pictures(70), "torch")
    assert isinstance(found, Evidence)
    assert found.answers.ravel().tolist() == list(range(70))
