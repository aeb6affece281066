import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.data.stratified import held_out, kept_labels
from distillkit.errors import DataError

labellings = st.lists(st.integers(-1, 6), min_size=2, max_size=200).filter(lambda labels: max(labels) >= 0)


def per_class(labels, chosen):
    return np.bincount(labels[chosen], minlength=labels.max() + 1).tolist()


def test_kept_labels_are_balanced_over_the_classes():
    labels = np.repeat(np.arange(10), 100)
    assert per_class(labels, kept_labels(labels, 500, seed=0)) == [50] * 10


def test_the_remainder_goes_to_the_first_classes():
    labels = np.repeat(np.arange(4), 10)
    assert per_class(labels, kept_labels(labels, 10, seed=0)) == [3, 3, 2, 2]


def test_a_small_class_gives_all_its_labels_and_the_others_fill_up():
    labels = np.repeat(np.arange(3), [2, 50, 50])
    assert per_class(labels, kept_labels(labels, 30, seed=0)) == [2, 14, 14]


@given(labellings, st.integers(0, 5), st.data())
def test_kept_labels_have_the_wanted_number_and_are_as_balanced_as_possible(given_labels, seed, data):
    labels = np.array(given_labels)
    wanted = data.draw(st.integers(1, int((labels >= 0).sum())))
    chosen = kept_labels(labels, wanted, seed)
    assert len(np.unique(chosen)) == len(chosen) == wanted
    assert (labels[chosen] >= 0).all()
    counts = np.array(per_class(labels, chosen))
    whole = counts == np.bincount(labels[labels >= 0], minlength=len(counts))
    assert whole.all() or counts.max() - counts[~whole].min() <= 1


def test_the_choice_is_seeded():
    labels = np.repeat(np.arange(10), 100)
    assert np.array_equal(kept_labels(labels, 100, 3), kept_labels(labels, 100, 3))
    assert not np.array_equal(kept_labels(labels, 100, 3), kept_labels(labels, 100, 4))
    assert set(kept_labels(labels, 100, 3)) != set(held_out(labels, 0.1, 3))


def test_held_out_images_are_in_proportion_to_the_classes():
    labels = np.repeat(np.arange(3), [100, 50, 10])
    assert per_class(labels, held_out(labels, 0.1, seed=0)) == [10, 5, 1]


def test_rounding_goes_to_the_largest_remainders():
    labels = np.repeat(np.arange(3), [17, 14, 19])  # a tenth: 1.7, 1.4, 1.9 of 5
    assert per_class(labels, held_out(labels, 0.1, seed=0)) == [2, 1, 2]


def test_at_least_one_image_is_held_out():
    assert len(held_out(np.array([0, 1, 0]), 0.1, seed=0)) == 1


@given(labellings, st.floats(0.01, 0.5), st.integers(0, 5))
def test_held_out_images_have_labels_and_leave_some(given_labels, share, seed):
    labels = np.array(given_labels)
    total = int((labels >= 0).sum())
    if total == 1:
        return
    chosen = held_out(labels, share, seed)
    assert len(chosen) == max(1, round(share * total))
    assert (labels[chosen] >= 0).all()


def test_more_labels_than_the_data_has_are_refused():
    with pytest.raises(DataError) as caught:
        kept_labels(np.repeat(np.arange(2), 600), 5000, seed=0)
    assert str(caught.value) == (
        "data.labels = 5,000 is more than the 1,200 labelled training images; use a smaller --labels or leave it out"
    )


def test_holding_out_everything_is_refused():
    with pytest.raises(DataError) as caught:
        held_out(np.array([0, 1, 0, 1]), 1.0, seed=0)
    assert str(caught.value) == (
        "data.validation = 1 holds out all 4 labelled images; use a smaller share, such as --set data.validation=0.1"
    )
