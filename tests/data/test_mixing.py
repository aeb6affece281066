import numpy as np
import pytest
import torch

from distillkit.data.mixing import Mixer, label_rows, mix, mix_labels
from distillkit.data.randomness import isolated, reseed
from distillkit.recipe.image_tables import Mixing

NAMES = ["0\x000\0a", "0\x000\0b", "0\x000\0c", "0\x000\0d", "0\x000\0e"]


def pictures(count, height=6, width=10):
    torch.manual_seed(0)
    return torch.randn(count, 3, height, width)


def mixed(mixing, images, labels, mass=None, names=NAMES, seed=7):
    images, labels = images.clone(), None if labels is None else labels.clone()
    mass = torch.ones(len(images)) if mass is None else mass
    drawn = Mixer(mixing, seed).draw(images.shape, mass, names[: len(images)])
    mix(images, drawn)
    if labels is not None:
        mix_labels(labels, drawn)
    return images, labels


def ratio_of(names, alpha, seed=7):
    """The mixing ratio of a pair, drawn here with NumPy alone."""
    with isolated():
        reseed(seed, "mixing", *names)
        np.random.rand()
        return np.random.beta(alpha, alpha)


def test_smoothing_as_timm():
    # 1 - 0.1 + 0.1 / 4 = 0.925 on the label, 0.1 / 4 = 0.025 elsewhere
    rows = label_rows([2, None, 0], 4, 0.1)
    expected = [[0.025, 0.025, 0.925, 0.025], [0, 0, 0, 0], [0.925, 0.025, 0.025, 0.025]]
    torch.testing.assert_close(rows, torch.tensor(expected))


def test_without_smoothing_a_label_is_one_hot():
    assert label_rows([1], 3, 0.0).tolist() == [[0.0, 1.0, 0.0]]


def test_mixup_of_one_pair_by_hand():
    images, labels = pictures(2), label_rows([3, 1], 4, 0.1)
    ratio = ratio_of(NAMES[:2], 0.8)
    assert 0 < ratio < 1
    found, rows = mixed(Mixing(mixup=0.8), images, labels)
    a, b = images.numpy().astype(np.float64)
    np.testing.assert_allclose(found[0], ratio * a + (1 - ratio) * b, atol=1e-6)
    np.testing.assert_allclose(found[1], ratio * b + (1 - ratio) * a, atol=1e-6)
    one, other = labels.numpy().astype(np.float64)
    np.testing.assert_allclose(rows[0], ratio * one + (1 - ratio) * other, atol=1e-6)
    np.testing.assert_allclose(rows[1], ratio * other + (1 - ratio) * one, atol=1e-6)


def test_cutmix_of_one_pair_by_hand():
    images, labels = pictures(2), label_rows([3, 1], 4, 0.0)
    found, rows = mixed(Mixing(cutmix=1.0), images, labels)
    with isolated():
        reseed(7, "mixing", *NAMES[:2])
        np.random.rand()
        ratio = np.random.beta(1.0, 1.0)
        cut_height, cut_width = int(6 * np.sqrt(1 - ratio)), int(10 * np.sqrt(1 - ratio))
        row, column = np.random.randint(0, 6), np.random.randint(0, 10)
    box = np.zeros((6, 10), bool)
    box[max(0, row - cut_height // 2) : row + (cut_height + 1) // 2, :] = True
    columns = np.zeros((6, 10), bool)
    columns[:, max(0, column - cut_width // 2) : column + (cut_width + 1) // 2] = True
    box &= columns
    assert 0 < box.sum() < 60
    a, b = images.numpy()
    np.testing.assert_array_equal(found[0], np.where(box, b, a))
    np.testing.assert_array_equal(found[1], np.where(box, a, b))
    left_over = 1 - box.sum() / 60
    np.testing.assert_allclose(rows, [[0, 1 - left_over, 0, left_over], [0, left_over, 0, 1 - left_over]], atol=1e-6)


def test_mixed_label_rows_still_sum_to_one():
    names = [f"0\x000\0{number}" for number in range(64)]
    images, labels = pictures(64), label_rows([number % 10 for number in range(64)], 10, 0.1)
    _, rows = mixed(Mixing(mixup=0.8, cutmix=1.0), images, labels, names=names)
    torch.testing.assert_close(rows.sum(1), torch.ones(64))
    assert not torch.equal(rows, labels)


def test_a_labelled_image_is_never_mixed_with_an_unlabelled_one():
    images = pictures(5)
    labels = label_rows([1, None, None, None, None], 4, 0.0)
    found, rows = mixed(Mixing(mixup=0.8), images, labels, torch.tensor([1.0, 0, 0, 0, 0]))
    assert torch.equal(found[:2], images[:2])  # a labelled and an unlabelled one
    assert not torch.equal(found[2:4], images[2:4])  # two unlabelled ones
    assert torch.equal(found[4], images[4])  # the last one, without a partner
    assert torch.equal(rows, labels)


def test_the_ratio_depends_on_the_pair_and_not_on_its_position():
    images = pictures(4)
    found, _ = mixed(Mixing(mixup=0.8, cutmix=1.0), images, None)
    alone, _ = mixed(Mixing(mixup=0.8, cutmix=1.0), images[2:], None, names=NAMES[2:])
    assert torch.equal(found[2:], alone)


def test_each_pair_draws_its_own_ratio():
    images = torch.cat([torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)]).repeat(2, 1, 1, 1)
    found, _ = mixed(Mixing(mixup=0.8), images, None)
    assert found[0, 0, 0, 0] != found[2, 0, 0, 0]
    assert found[0, 0, 0, 0] == pytest.approx(ratio_of(NAMES[:2], 0.8))
    assert found[2, 0, 0, 0] == pytest.approx(ratio_of(NAMES[2:4], 0.8))


def test_batch_mode_has_one_draw_and_pairs_the_first_with_the_last():
    images, labels = pictures(4), label_rows([0, 1, 2, 3], 4, 0.0)
    ratio = ratio_of(NAMES[:4], 0.8)
    found, rows = mixed(Mixing(mixup=0.8, mode="batch"), images, labels)
    np.testing.assert_allclose(found, ratio * images + (1 - ratio) * images.flip(0), atol=1e-6)
    np.testing.assert_allclose(rows, ratio * labels + (1 - ratio) * labels.flip(0), atol=1e-6)


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=0.8, probability=0.0)])
def test_mixing_that_is_off_changes_nothing(mixing):
    images, labels = pictures(4), label_rows([0, 1, 2, 3], 4, 0.1)
    found, rows = mixed(mixing, images, labels)
    assert torch.equal(found, images)
    assert torch.equal(rows, labels)


def test_probability_and_switch_are_respected():
    names = [f"0\x000\0{number}" for number in range(1200)]
    flat = torch.cat([torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)]).repeat(600, 1, 1, 1)
    found, _ = mixed(Mixing(mixup=0.8, cutmix=1.0, probability=0.6, switch=0.25), flat, None, names=names)
    first = found[::2].flatten(1)
    is_mixup = ((first > 0) & (first < 1)).all(1)
    is_left = (first == 1).all(1)
    # Cutmix with an empty box counts as left: 1 - ratio < 1/64 has probability 1/64.
    assert is_mixup.float().mean().item() == pytest.approx(0.6 * 0.75, abs=0.05)
    assert is_left.float().mean().item() == pytest.approx(0.4, abs=0.05)


def test_mixing_leaves_the_global_generators_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    mixed(Mixing(mixup=0.8, cutmix=1.0), pictures(4), None)
    assert np.random.rand() == expected
