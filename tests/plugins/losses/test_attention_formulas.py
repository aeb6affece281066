"""The formulas of the attention losses, each against NumPy, by hand, and by finite differences."""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from distillkit.models import matched_layers
from distillkit_plugins.losses.attention_guidance import clamped, interpolated
from distillkit_plugins.losses.attention_rows import normalised, patch_distribution, resample
from distillkit_plugins.losses.divergences import (
    floored_log,
    kl_divergence,
    l1_distance,
    softened_kl,
    squared_l2_distance,
)
from distillkit_plugins.losses.head_aggregation import aggregate_heads, group_heads, log_sum_heads

GRIDS = [((4, 4), (2, 2)), ((4, 6), (2, 3)), ((6, 9), (2, 3)), ((3, 5), (2, 4)), ((2, 3), (4, 6)), ((4, 10), (2, 5))]
WHOLE = [pair for pair in GRIDS if all(here % there == 0 for here, there in zip(*pair, strict=True))]

reusing_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def tensor(values, *, gradient=False):
    return torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=gradient)


def agree(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6, atol=1e-9)


# Heads


def test_twelve_heads_become_three_by_means_of_consecutive_fours():
    heads = torch.arange(12.0)[:, None].expand(12, 5)
    assert group_heads(heads, 3).tolist() == [[1.5] * 5, [5.5] * 5, [9.5] * 5]
    assert aggregate_heads(heads, "group", 3).shape == (3, 5)


def test_six_heads_become_three_and_one_group_is_the_mean_of_all():
    heads = torch.arange(6.0)[:, None].expand(6, 2)
    assert group_heads(heads, 3).tolist() == [[0.5] * 2, [2.5] * 2, [4.5] * 2]
    assert aggregate_heads(heads, "mean", 3).tolist() == [[2.5] * 2]


def test_log_sum_by_hand():
    """Heads (1/2, 3/10, 1/5) and (1/5, 3/10, 1/2) multiply to (10, 9, 10) / 100."""
    heads = tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    agree(log_sum_heads(heads, 1.0), [[10 / 29, 9 / 29, 10 / 29]])
    roots = np.sqrt([10.0, 9.0, 10.0])
    agree(log_sum_heads(heads, 2.0), [roots / roots.sum()])
    agree(aggregate_heads(heads, "logsum", 2), [roots / roots.sum()])


@reusing_fixtures
@given(st.integers(0, 99), st.integers(1, 12), st.floats(0.5, 20))
def test_log_sum_against_numpy(some_rows, seed, heads, temperature):
    rows = some_rows(seed, 3, heads, 7)
    scores = np.log(np.maximum(rows, 1e-12)).sum(axis=1, keepdims=True) / temperature
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    agree(log_sum_heads(tensor(rows), temperature), powers / powers.sum(axis=-1, keepdims=True))


def test_a_geometric_mean_of_equal_heads_is_that_head(some_rows):
    head = some_rows(1, 1, 1, 9)
    agree(log_sum_heads(tensor(np.repeat(head, 6, axis=1)), 6), head.clip(1e-12))


# Layers


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (12, 12, range(12)),
        (4, 12, (2, 5, 8, 11)),
        (8, 12, (1, 2, 4, 5, 7, 8, 10, 11)),
        (12, 8, (0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7)),
        (12, 24, range(1, 24, 2)),
        (3, 1, (0, 0, 0)),
        (1, 12, (11,)),
    ],
)
def test_matched_layers(student, teacher, expected):
    assert matched_layers(student, teacher) == tuple(expected)


@given(st.integers(1, 64), st.integers(1, 64))
def test_matched_layers_rise_and_end_at_the_last(student, teacher):
    matched = matched_layers(student, teacher)
    rounded = [
        int((Decimal((layer + 1) * teacher) / student).quantize(Decimal(1), ROUND_HALF_UP)) - 1
        for layer in range(student)
    ]
    assert matched == tuple(max(layer, 0) for layer in rounded)
    assert matched[-1] == teacher - 1
    assert list(matched) == sorted(matched)


# Grids


@pytest.mark.parametrize(("source", "goal"), GRIDS)
def test_bicubic_against_numpy(numpy_resample, some_rows, source, goal):
    patches = some_rows(2, 2, 3, source[0] * source[1])
    agree(resample(tensor(patches), source, goal, "bicubic"), numpy_resample(patches, source, goal, "bicubic"))


@pytest.mark.parametrize(("source", "goal"), WHOLE)
def test_area_against_numpy_keeps_the_mass(numpy_resample, some_rows, source, goal):
    patches = some_rows(3, 2, 3, source[0] * source[1])
    found = resample(tensor(patches), source, goal, "area")
    agree(found, numpy_resample(patches, source, goal, "area"))
    finer = source[0] * source[1] / (goal[0] * goal[1])
    agree(finer * found.sum(dim=-1), patches.sum(axis=-1))


def test_bicubic_by_hand():
    """Half-way between two patches the cubic of a = -3/4 has weights (-3, 19, 19, -3) / 32; borders are repeated."""
    found = resample(tensor([[32.0, 0.0, 0.0, 0.0], [0.0, 32.0, 0.0, 0.0]]), (1, 4), (1, 2), "bicubic")
    agree(found, [[-3 + 19, 0], [19, -3]])


def test_equal_grids_are_unchanged(some_rows):
    patches = tensor(some_rows(4, 1, 6))
    assert resample(patches, (2, 3), (2, 3), "bicubic") is patches


def test_equal_patch_counts_on_other_grids_are_interpolated(numpy_resample, some_rows):
    patches = some_rows(5, 1, 12)
    found = resample(tensor(patches), (2, 6), (3, 4), "bicubic")
    agree(found, numpy_resample(patches, (2, 6), (3, 4), "bicubic"))


def test_the_class_entry_is_dropped_and_the_patches_are_normalised():
    agree(patch_distribution(tensor([0.5, 0.1, 0.1, 0.2, 0.1]), (2, 2), (2, 2), "none"), [0.2, 0.2, 0.4, 0.2])


def test_normalised_zeros_stay_zeros():
    assert normalised(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


# Case (b) of AttnDistill


def test_the_class_entry_is_kept_and_the_patches_sum_to_the_rest():
    """2 x 4 patches become 1 x 2: area means 1/16 and 3/16 share 1 - 1/4 as 1 to 3."""
    row = tensor([0.25, *[0.0625, 0.0625, 0.125, 0.125] * 2])
    agree(interpolated(row, (2, 4), (1, 2), "area"), [0.25, 0.25, 0.5])


@reusing_fixtures
@given(st.integers(0, 99), st.sampled_from(GRIDS), st.sampled_from(["bicubic", "area"]))
def test_interpolated_patches_sum_to_one_minus_the_class_entry(some_rows, numpy_resample, seed, grids, interpolation):
    source, goal = grids
    rows = some_rows(seed, 2, 3, 1 + source[0] * source[1])
    if interpolation == "area" and grids not in WHOLE:
        return
    patches = numpy_resample(rows[..., 1:], source, goal, interpolation)
    whole = patches.sum(axis=-1, keepdims=True)
    sane = (whole > patches.clip(min=0).sum(axis=-1, keepdims=True) / 2).all()
    found = interpolated(tensor(rows), source, goal, interpolation)
    agree(found[..., 0], rows[..., 0])
    if sane:
        agree(found[..., 1:], (1 - rows[..., :1]) * patches / whole)
        agree(found.sum(dim=-1), np.ones((2, 3)))


@reusing_fixtures
@given(st.lists(st.floats(0, 1), min_size=64, max_size=64).filter(lambda entries: sum(entries) > 0.01))
def test_from_a_grid_twice_as_fine_the_authors_sum_is_never_changed(numpy_resample, entries):
    patches = np.array(entries)
    found = numpy_resample(patches, (8, 8), (4, 4), "bicubic")
    # One peak gives the least: (1/2)^2 of (19^2 + 3^2) / 32^2.
    assert found.sum() > 0.69 * found.clip(min=0).sum()


@pytest.mark.parametrize("finer", [3, 4, 8])
def test_a_single_peak_between_the_sampled_patches_gives_a_finite_row(finer):
    side = 2 * finer
    for peak in range(side * side):
        row = torch.zeros(1 + side * side)
        row[1 + peak] = 1.0
        found = clamped(interpolated(row, (side, side), (2, 2), "bicubic"))
        assert torch.isfinite(found).all()
        assert (found > 0).all()
        assert found.sum().item() == pytest.approx(1)


def test_the_authors_clamp_by_hand():
    whole = 0.996 + 0.001 + 1e-5
    agree(clamped(tensor([0.999, 0.001, 0.0])), np.array([0.996, 0.001, 1e-5]) / whole)


# Divergences


def test_divergences_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2)."""
    teacher, student = tensor([0.75, 0.25]), tensor([0.5, 0.5])
    assert l1_distance(teacher, student).item() == 0.5
    assert squared_l2_distance(teacher, student).item() == 0.125
    assert kl_divergence(teacher, student).item() == pytest.approx(0.13081204, abs=1e-8)
    assert softened_kl(teacher.log(), student.log(), 1.0).item() == pytest.approx(0.13081204, abs=1e-8)


def test_second_softmax_by_hand():
    """softmax(3/4, 1/4) is (s, 1 - s) with s = 1 / (1 + exp(-1/2)); softmax(1/2, 1/2) is (1/2, 1/2)."""
    s = 1 / (1 + np.exp(-0.5))
    expected = s * np.log(2 * s) + (1 - s) * np.log(2 * (1 - s))
    agree(softened_kl(tensor([0.75, 0.25]), tensor([0.5, 0.5]), 1.0), expected)


@reusing_fixtures
@given(st.integers(0, 99), st.floats(0.05, 20))
def test_divergences_against_numpy(some_rows, seed, tau):
    teacher, student = some_rows(seed, 4, 9), some_rows(seed + 100, 4, 9)
    agree(l1_distance(tensor(teacher), tensor(student)), np.abs(teacher - student).sum(axis=-1))
    agree(squared_l2_distance(tensor(teacher), tensor(student)), ((teacher - student) ** 2).sum(axis=-1))
    logs = [np.log(np.maximum(rows, 1e-12)) for rows in (teacher, student)]
    agree(kl_divergence(tensor(teacher), tensor(student)), (teacher * (logs[0] - logs[1])).sum(axis=-1))
    softened = [np.exp(rows / tau) / np.exp(rows / tau).sum(axis=-1, keepdims=True) for rows in (teacher, student)]
    expected = tau**2 * (softened[0] * np.log(softened[0] / softened[1])).sum(axis=-1)
    np.testing.assert_allclose(softened_kl(tensor(teacher), tensor(student), tau), expected, rtol=1e-6, atol=1e-9)


@reusing_fixtures
@given(st.integers(0, 99), st.floats(1, 20))
def test_second_softmax_gives_the_squared_distance_divided_by_twice_the_patches(some_rows, seed, tau):
    """Why `resoftmax` has so little effect, and why a higher temperature does not help."""
    teacher, student = some_rows(seed, 196), some_rows(seed + 100, 196)
    expected = ((teacher - student) ** 2).sum() / (2 * 196)
    assert softened_kl(tensor(teacher), tensor(student), tau).item() == pytest.approx(expected, rel=0.3)


def test_zeros_give_neither_infinity_nor_nan():
    zeros = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    certain = tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    for value in (
        kl_divergence(certain, zeros),
        kl_divergence(zeros.detach(), zeros),
        softened_kl(floored_log(certain), floored_log(zeros), 1.0),
        log_sum_heads(zeros, 10.0),
        normalised(zeros),
        clamped(zeros),
        patch_distribution(zeros, (1, 3), (1, 3), "none"),
        interpolated(zeros, (1, 3), (1, 2), "bicubic"),
    ):
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), zeros, allow_unused=True)
        assert gradient is None or torch.isfinite(gradient).all()


FUNCTIONS = {
    "l1": l1_distance,
    "l2": squared_l2_distance,
    "kl": kl_divergence,
    "resoftmax": lambda teacher, student: softened_kl(teacher, student, 0.5),
    "direct": lambda teacher, student: softened_kl(floored_log(teacher), floored_log(student), 2.0),
    "mean": lambda _, student: group_heads(student, 1),
    "group": lambda _, student: group_heads(student, 2),
    "log-sum": lambda _, student: log_sum_heads(student, 10.0),
    "patches": lambda _, student: patch_distribution(student, (2, 3), (2, 3), "none"),
    "bicubic": lambda _, student: interpolated(student, (2, 3), (1, 2), "bicubic"),
    "clamped": lambda _, student: clamped(student),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_is_that_of_the_formula(name):
    generator = np.random.default_rng(7)
    teacher, student = (rows / rows.sum(axis=-1, keepdims=True) for rows in generator.random((2, 3, 4, 7)) + 0.05)
    assert gradcheck(lambda rows: FUNCTIONS[name](tensor(teacher), rows), (tensor(student, gradient=True),))
