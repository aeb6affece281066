"""Micro-batches of one sample: split otherwise, or refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.data.micro_batches import check_no_single_samples, micro_batches
from distillkit.data.order import rank_positions
from distillkit.errors import RecipeError


def sizes(samples, size, *, allow_single=False):
    return [part.stop - part.start for part in micro_batches(samples, size, allow_single=allow_single)]


@pytest.mark.parametrize(
    ("samples", "size", "as_before", "expected"),
    [
        (9, 8, [8, 1], [4, 5]),
        (15, 7, [7, 7, 1], [7, 4, 4]),
        (17, 4, [4, 4, 4, 4, 1], [4, 4, 4, 2, 3]),
        (4, 3, [3, 1], [2, 2]),
        (10, 8, [8, 2], [8, 2]),
        (9, None, [9], [9]),
        (1, 1, [1], [1]),
        (3, 2, [2, 1], [2, 1]),
    ],
)
def test_only_a_last_micro_batch_of_one_is_split_otherwise(samples, size, as_before, expected):
    assert sizes(samples, size, allow_single=True) == as_before
    assert sizes(samples, size) == expected


@given(st.integers(1, 200), st.integers(3, 40))
def test_parts_cover_all_samples_within_the_size_and_between_pairs(samples, size):
    parts = micro_batches(samples, size, allow_single=False)
    assert np.concatenate([np.arange(samples)[part] for part in parts]).tolist() == list(range(samples))
    assert all(part.stop - part.start <= size for part in parts)
    assert samples == 1 or all(part.stop - part.start > 1 for part in parts)
    assert size % 2 or all(part.start % 2 == 0 for part in parts)


@pytest.mark.parametrize(
    ("samples", "size", "world", "step", "remedy"),
    [
        (
            *(1, 1, 1, "1 sample in micro-batches of 1"),
            "training.batch_size to a multiple of 2 and training.micro_batch_size to at least 2",
        ),
        (1, None, 1, "1 sample", "training.batch_size to a multiple of 2"),
        (8, 1, 1, "8 samples in micro-batches of 1", "training.micro_batch_size to at least 2"),
        (9, 2, 1, "9 samples in micro-batches of 2", "training.micro_batch_size to at least 3"),
        (5, 1, 1, "5 samples in micro-batches of 1", "training.micro_batch_size to at least 3"),
        (10, 1, 2, "10 samples over 2 processes in micro-batches of 1", "training.micro_batch_size to at least 2"),
        (5, 64, 3, "5 samples over 3 processes in micro-batches of 64", "training.batch_size to a multiple of 6"),
    ],
)
def test_what_cannot_be_split_is_refused(samples, size, world, step, remedy):
    with pytest.raises(RecipeError) as caught:
        check_no_single_samples(samples, size, world)
    assert str(caught.value) == (
        "this student cannot be trained on a single image, because its batch normalisation needs two values per "
        f"channel; a step of {step} leaves one by itself: set {remedy}"
    )


@given(st.integers(1, 60), st.integers(1, 9) | st.none(), st.integers(1, 4))
def test_what_is_not_refused_has_no_micro_batch_of_one(samples, size, world):
    ranks = [len(rank_positions(samples, rank, world)) for rank in range(world)]
    try:
        check_no_single_samples(samples, size, world)
    except RecipeError as error:
        assert size in {1, 2} or 1 in ranks
        least = re.search(r"micro_batch_size to at least (\d)", str(error))
        multiple = 2 * world * samples if "training.batch_size to a multiple" in str(error) else samples
        check_no_single_samples(multiple, int(least[1]) if least else size, world)  # the remedy
    else:
        assert all(1 not in sizes(count, size) for count in ranks)
