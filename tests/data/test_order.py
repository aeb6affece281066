from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.data.order import Order, rank_positions, steps_per_epoch, view_of
from distillkit.data.worker_loader import Layout
from distillkit.errors import DataError


def mask(labelled, unlabelled):
    """Labelled and unlabelled images alternating as far as possible, so that nothing depends on their position."""
    return np.resize([True, False], 2 * min(labelled, unlabelled)).tolist() + [labelled > unlabelled] * abs(
        labelled - unlabelled
    )


def orders():
    return st.builds(
        lambda labelled, unlabelled, batch, repeats, seed, fraction: Order(
            np.array(mask(labelled, unlabelled), bool), batch, seed, repeats, fraction if labelled else None
        ),
        st.integers(0, 400),
        st.integers(1, 300),
        st.integers(1, 130),
        st.integers(1, 4),
        st.integers(0, 3),
        st.sampled_from([None, 0.05, 0.5, 1.0]),
    )


def entries(order, epoch=0):
    return order.epoch(epoch).reshape(-1, 2)


@given(orders())
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(order):
    assert np.array_equal(order.epoch(2), order.epoch(2))
    assert order.epoch(2).shape == (order.steps_per_epoch, order.window, 2)


@given(orders())
def test_no_entry_occurs_twice_in_an_epoch(order):
    assert len(np.unique(entries(order), axis=0)) == len(entries(order))


@given(orders())
def test_labelled_entries_come_first_in_every_window_and_match_labelled_per_step(order):
    for window, expected in zip(order.epoch(1), order.labelled_per_step, strict=True):
        is_labelled = order.labelled[window[:, 0]]
        assert is_labelled.sum() == expected
        assert is_labelled[:expected].all()


@given(orders())
def test_neighbours_in_a_window_are_different_images(order):
    for window in order.epoch(0):
        for one, other in pairwise(window[:, 0].tolist()):
            kind = order.labelled == order.labelled[one]
            assert one != other or kind.sum() == 1


@given(orders(), st.integers(1, 5))
def test_ranks_partition_every_window(order, world):
    positions = [rank_positions(order.window, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(positions).tolist()) == list(range(order.window))
    for mine in positions:
        pairs = mine[: len(mine) // 2 * 2].reshape(-1, 2)
        assert (pairs[:, 0] % 2 == 0).all()
        assert (pairs[:, 1] == pairs[:, 0] + 1).all()


@given(orders(), st.integers(1, 5), st.integers(1, 20) | st.none())
def test_micro_batches_of_all_ranks_partition_every_window(order, world, micro_batch_size):
    """The union over ranks and micro-batches equals the window of a single process, entry by entry."""
    for window in order.epoch(1):
        seen = np.full_like(window, -1)
        for rank in range(world):
            mine = rank_positions(order.window, rank, world)
            layout = Layout(rank, world, micro_batch_size, workers=0, pin=False)
            parts = [mine[part] for part in layout.micro_batches(len(mine))] if len(mine) else []
            for places in parts:
                assert (seen[places] == -1).all()
                seen[places] = window[places]
        assert (seen == window).all()


@given(st.integers(1, 700), st.integers(1, 130))
def test_without_repeats_every_image_of_the_complete_batches_is_seen_once(images, batch):
    order = Order(np.ones(images, bool), batch)
    seen = entries(order)
    assert order.steps_per_epoch == max(1, images // batch)
    assert len(np.unique(seen[:, 0])) == len(seen) == (images if images < batch else images // batch * batch)
    assert (seen[:, 1] == 0).all()


def test_fewer_images_than_a_batch_make_one_step_with_all_of_them():
    order = Order(np.ones(5, bool), 32)
    assert order.epoch(0).shape == (1, 5, 2)
    assert sorted(entries(order)[:, 0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("images", "seen"), [(40, 40), (255, 255), (256, 256), (300, 256), (600, 512)])
def test_repeated_augmentation_sees_a_multiple_of_256_entries_of_a_third_of_the_images(images, seen):
    order = Order(np.ones(images, bool), 10, repeats=3)
    assert order.steps_per_epoch == seen // 10
    found = entries(order)
    shown, times = np.unique(found[:, 0], return_counts=True)
    assert abs(len(shown) - len(found) / 3) <= 2
    assert (times == 3).sum() >= len(shown) - 3
    assert set(found[:, 1].tolist()) == {0, 1, 2}


def test_repeats_of_an_image_go_to_different_processes():
    order = Order(np.ones(90, bool), 30, repeats=3)
    window = order.epoch(0)[0]
    by_rank = [set(map(tuple, window[rank_positions(30, rank, 3)].tolist())) for rank in range(3)]
    for image in np.unique(window[:, 0]).tolist():
        ranks = [rank for rank in range(3) if any(entry[0] == image for entry in by_rank[rank])]
        assert len(ranks) == 3


def test_epochs_and_seeds_differ():
    order = Order(np.ones(64, bool), 16)
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), Order(np.ones(64, bool), 16, seed=1).epoch(0))


def test_views_return_in_turn():
    assert [view_of(epoch, 3) for epoch in range(4)] == [0, 1, 2, 0]
    assert view_of(7, None) == 7


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("mixed", ["no", "pair", "batch"])
def test_epochs_of_a_view_show_the_same_entries_in_another_order(mixed, repeats):
    # 600 images in windows of 48: without repeats 24 images are left out, and always the same ones
    order = Order(np.ones(600, bool), 48, repeats=repeats, views=3, mixed=mixed)
    first, second, other = order.epoch(1), order.epoch(4), order.epoch(2)
    as_sets = [set(map(tuple, epoch.reshape(-1, 2).tolist())) for epoch in (first, second, other)]
    assert as_sets[0] == as_sets[1] != as_sets[2]
    assert not np.array_equal(first, second)


def partners(order, epoch, size):
    """What is mixed with what: the groups of `size` neighbours of an epoch, in order within a group."""
    return {tuple(map(tuple, group)) for group in order.epoch(epoch).reshape(-1, size, 2).tolist()}


@pytest.mark.parametrize(("mixed", "size"), [("pair", 2), ("batch", 16)])
@given(
    labelled=st.integers(8, 40).map(lambda half: 2 * half),
    unlabelled=st.integers(0, 20).map(lambda half: 2 * half),
    repeats=st.integers(1, 3),
)
def test_what_is_mixed_stays_together_in_every_epoch_of_a_view(mixed, size, labelled, unlabelled, repeats):
    order = Order(np.arange(labelled + unlabelled) < labelled, 16, repeats=repeats, views=2, mixed=mixed)
    if mixed == "batch" and unlabelled:
        return  # refused by `TrainingData`
    assert partners(order, 0, size) == partners(order, 2, size)


def test_an_odd_number_of_labelled_entries_keeps_the_order_of_the_view():
    order = Order(np.arange(40) < 15, 16, views=2, mixed="pair")
    assert order.labelled_per_step.tolist() == [6, 6]
    odd = Order(np.arange(40) < 13, 16, views=2, mixed="pair")
    assert odd.labelled_per_step.tolist() == [5, 5]
    assert np.array_equal(odd.epoch(0), odd.epoch(2))
    assert not np.array_equal(order.epoch(0), order.epoch(2))


def test_labelled_images_are_spread_evenly_over_the_steps():
    labelled = np.zeros(1000, bool)
    labelled[:100] = True
    # 12.8 a step: cumulative counts of 0, 12, 25, 38, 51, 64, 76, 89
    assert Order(labelled, 128).labelled_per_step.tolist() == [12, 13, 13, 13, 13, 12, 13]


def test_labeled_fraction_repeats_the_few_labelled_images():
    labelled = np.zeros(1000, bool)
    labelled[:10] = True
    order = Order(labelled, 100, labeled_fraction=0.5)
    assert order.labelled_per_step.tolist() == [50] * 10
    found = entries(order)
    mine = found[labelled[found[:, 0]]]
    assert np.bincount(mine[:, 0]).tolist() == [50] * 10
    for image in range(10):
        assert sorted(mine[mine[:, 0] == image, 1]) == list(range(50))
    assert len(np.unique(found[~labelled[found[:, 0]], 0])) == 500


def test_labeled_fraction_has_no_effect_if_all_images_are_labelled():
    order = Order(np.ones(40, bool), 10, labeled_fraction=0.5)
    assert order.labelled_per_step.tolist() == [10] * 4


def test_an_order_of_unlabelled_images_alone():
    order = Order(np.zeros(20, bool), 8)
    assert order.labelled_per_step.tolist() == [0, 0]
    assert len(np.unique(entries(order)[:, 0])) == 16


def test_the_order_of_a_recipe(recipe):
    datasets = SimpleNamespace(labelled=np.ones(600, bool), train=range(600))
    made = recipe(data={"seed": 4, "views": 2}, augment={"repeats": 3}, training={"batch_size": 50})
    order = Order.from_recipe(datasets, made)
    assert (order.batch_size, order.seed, order.repeats, order.views) == (50, 4, 3, 2)
    assert steps_per_epoch(datasets, made) == 512 // 50


@pytest.mark.parametrize(
    ("mixing", "mixed"),
    [
        ({"mixup": 0.0, "cutmix": 0.0}, "no"),
        ({"mixup": 0.8, "cutmix": 0.0}, "pair"),
        ({"mixup": 0.8, "mode": "batch"}, "batch"),
    ],
)
def test_a_recipe_says_what_is_mixed(recipe, mixing, mixed):
    datasets = SimpleNamespace(labelled=np.ones(60, bool), train=range(60))
    assert Order.from_recipe(datasets, recipe(mixing=mixing)).mixed == mixed


def test_labeled_fraction_without_labels_is_refused(recipe):
    datasets = SimpleNamespace(labelled=np.zeros(60, bool), train=range(60))
    with pytest.raises(DataError) as caught:
        Order.from_recipe(datasets, recipe(data={"labeled_fraction": 0.25}))
    assert str(caught.value) == (
        "data.labeled_fraction = 0.25 needs labelled images, and the data has no labels; leave it out"
    )
