"""ADViT's losses against a NumPy implementation of the complete computation, and the statements of their docstrings."""

import numpy as np
import pytest
import torch

from distillkit import BatchInfo, BrokenPluginError, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import vit
from distillkit_plugins.losses.advit import AttentionKl, AttentionL1, AttentionL2

LOSSES = {"advit-l1": AttentionL1, "advit-l2": AttentionL2, "advit-kl": AttentionKl}
BATCH = BatchInfo(labels=None, label_mass=torch.zeros(2))


def model(name, heads, *, layers=3, grid=(2, 3)):
    return vit(name, layers=layers, width=4, heads=heads, grid=grid)


def build(name, student, teacher, **options):
    return LOSSES[name].build(LOSSES[name].Options(**options), student, teacher)


def outputs(rows):
    return Outputs(cls_attention=torch.from_numpy(rows))


def compute(loss, teacher_rows, student_rows):
    """The loss's only term, computed from the rows of the layers it reads."""
    (term,) = loss(outputs(student_rows), loss.target(outputs(teacher_rows)), BATCH).values()
    return term.numpy()


def aggregated(rows, heads, groups):
    """[B, L, H, K] to [B, L, G, K]."""
    if heads == "logsum":
        product = np.exp(np.log(np.maximum(rows, 1e-12)).mean(axis=2, keepdims=True))
        return product / product.sum(axis=-1, keepdims=True)
    count = groups if heads == "group" else 1
    return np.stack([part.mean(axis=2) for part in np.split(rows, count, axis=2)], axis=2)


def shares(rows):
    patches = rows[..., 1:]
    return patches / patches.sum(axis=-1, keepdims=True)


def softmax(values):
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(teacher_rows, student_rows):
    return (teacher_rows * np.log(np.maximum(teacher_rows, 1e-12) / np.maximum(student_rows, 1e-12))).sum(axis=-1)


DISTANCES = {
    ("advit-l1", ()): lambda teacher, student: np.abs(teacher - student).sum(axis=-1),
    ("advit-l2", ()): lambda teacher, student: ((teacher - student) ** 2).sum(axis=-1),
    ("advit-kl", (("tau", 1.0),)): lambda teacher, student: divergence(softmax(teacher), softmax(student)),
    ("advit-kl", (("tau", 0.1),)): lambda teacher, student: (
        0.01 * divergence(softmax(teacher / 0.1), softmax(student / 0.1))
    ),
    ("advit-kl", (("form", "direct"),)): divergence,
}
HEADS = [("mean", 12, 3), ("mean", 5, 2), ("group", 12, 3), ("group", 12, 6), ("group", 6, 3), ("logsum", 12, 3)]


@pytest.mark.parametrize(("heads", "teacher_heads", "student_heads"), HEADS)
@pytest.mark.parametrize(("name", "options"), DISTANCES)
def test_against_numpy(some_rows, name, options, heads, teacher_heads, student_heads):
    teacher_rows, student_rows = some_rows(1, 2, 3, teacher_heads, 7), some_rows(2, 2, 3, student_heads, 7)
    loss = build(name, model("s", student_heads), model("t", teacher_heads), heads=heads, **dict(options))
    found = compute(loss, teacher_rows, student_rows)
    prepared = [shares(aggregated(rows, heads, student_heads)) for rows in (teacher_rows, student_rows)]
    expected = DISTANCES[name, options](*prepared).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "grids",
    [
        ((4, 6), (2, 3), "bicubic"),
        ((4, 6), (2, 3), "area"),
        ((3, 5), (2, 4), "bicubic"),
        ((2, 2), (4, 3), "bicubic"),
    ],
)
@pytest.mark.parametrize(("name", "options"), DISTANCES)
def test_other_grids_and_depths_against_numpy(some_rows, numpy_resample, name, options, grids):
    """A student of 4 layers reads layers 2, 5, 8 and 11 of a teacher of 12."""
    source, goal, interpolation = grids
    student_rows = some_rows(3, 2, 4, 3, 1 + goal[0] * goal[1])
    teacher_rows = some_rows(4, 2, 4, 3, 1 + source[0] * source[1])
    student, teacher = model("s", 3, layers=4, grid=goal), model("t", 3, layers=12, grid=source)
    loss = build(name, student, teacher, interpolation=interpolation, **dict(options))
    assert loss.reads_teacher == {Read(Signal.CLS_ATTENTION, (2, 5, 8, 11))}
    moved = numpy_resample(teacher_rows.mean(axis=2, keepdims=True)[..., 1:], source, goal, interpolation).clip(min=0)
    moved /= moved.sum(axis=-1, keepdims=True)
    expected = DISTANCES[name, options](moved, shares(student_rows.mean(axis=2, keepdims=True))).mean(axis=(1, 2))
    np.testing.assert_allclose(compute(loss, teacher_rows, student_rows), expected, rtol=1e-6, atol=1e-6)


def test_a_deeper_student_compares_several_layers_with_one_of_the_teacher(some_rows):
    teacher_rows, student_rows = some_rows(5, 2, 2, 3, 7), some_rows(6, 2, 5, 3, 7)
    loss = build("advit-l1", model("s", 3, layers=5), model("t", 3, layers=2))
    assert loss.targets["attention"].shape == (2, 1, 6)
    layers = [0, 0, 0, 1, 1]  # 2/5, 4/5, 6/5, 8/5, 10/5, rounded, less one, none below 0
    expected = (
        np.abs(shares(teacher_rows[:, layers].mean(axis=2)) - shares(student_rows.mean(axis=2)))
        .sum(axis=-1)
        .mean(axis=1)
    )
    np.testing.assert_allclose(compute(loss, teacher_rows, student_rows), expected, rtol=1e-6)


def test_l1_and_l2_by_hand():
    """One layer, one head, two patches: (3/4, 1/4) against (1/2, 1/2) after the class token's own entry is dropped."""
    teacher_rows, student_rows = np.array([[[[0.2, 0.6, 0.2]]]]), np.array([[[[0.8, 0.1, 0.1]]]])
    student, teacher = (model(name, 1, layers=1, grid=(1, 2)) for name in "st")
    assert compute(build("advit-l1", student, teacher), teacher_rows, student_rows) == pytest.approx(0.5)
    assert compute(build("advit-l2", student, teacher), teacher_rows, student_rows) == pytest.approx(0.125)
    direct = build("advit-kl", student, teacher, form="direct")
    assert compute(direct, teacher_rows, student_rows) == pytest.approx(0.13081204)
    s = 1 / (1 + np.exp(-0.5))
    again = s * np.log(2 * s) + (1 - s) * np.log(2 - 2 * s)
    assert compute(build("advit-kl", student, teacher), teacher_rows, student_rows) == pytest.approx(again)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_attention_gives_zero_loss(some_rows, name):
    rows = some_rows(7, 2, 3, 2, 7)
    assert compute(build(name, model("s", 2), model("t", 2)), rows, rows) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"form": "direct"}])
def test_zeros_give_finite_terms_and_gradients(options):
    teacher_rows = torch.zeros(2, 3, 2, 7)
    teacher_rows[..., 1] = 1
    student_rows = torch.zeros(2, 3, 2, 7, requires_grad=True)
    loss = build("advit-kl", model("s", 2), model("t", 2), **options)
    term = loss(Outputs(cls_attention=student_rows), loss.target(Outputs(cls_attention=teacher_rows)), BATCH)[
        "attention"
    ]
    term.sum().backward()
    assert torch.isfinite(term).all()
    assert torch.isfinite(student_rows.grad).all()


def test_one_target_fits_all_three_losses_and_every_temperature(some_rows):
    rows = outputs(some_rows(8, 2, 3, 4, 25))
    student, teacher = model("s", 2), model("t", 4, grid=(4, 6))
    losses = [build(name, student, teacher) for name in LOSSES]
    losses += [build("advit-kl", student, teacher, form="direct", tau=3.0)]
    first, *others = (loss.target(rows)["attention"] for loss in losses)
    assert all(torch.equal(first, other) for other in others)


def test_the_target_is_small():
    """The target keeps 3 layers of one row on the student's 2 x 3 grid, not 12 layers of 12 heads on 24 x 24."""
    loss = build("advit-l1", model("s", 3), model("t", 12, layers=12, grid=(24, 24)))
    assert loss.targets == {"attention": TargetSpec((3, 1, 6), "float32", exact=False)}
    grouped = build("advit-l1", model("s", 3), model("t", 12), heads="group")
    assert grouped.targets["attention"].shape == (3, 3, 6)


def test_weights_are_one_and_one():
    loss = build("advit-kl", model("s", 3), model("t", 12))
    assert (loss.weight, loss.label_weight) == (1.0, 1.0)
    assert (loss.options.form, loss.options.tau) == ("resoftmax", 1.0)


def test_groups_need_a_multiple_of_the_students_heads():
    with pytest.raises(RecipeError) as refusal:
        build("advit-l1", model("small", 5), model("large", 12), heads="group")
    assert str(refusal.value) == (
        "loss 'advit-l1': heads = \"group\" needs a teacher whose number of heads is a multiple of the student's; "
        "teacher 'large' has 12 heads and student 'small' has 5; use heads = \"mean\" or \"logsum\""
    )


def test_different_grids_are_refused_without_interpolation():
    student, teacher = model("small", 3, grid=(14, 14)), model("large", 12, grid=(28, 28))
    with pytest.raises(RecipeError) as refusal:
        build("advit-l2", student, teacher, interpolation="none")
    assert str(refusal.value) == (
        "loss 'advit-l2': teacher 'large' has 28 x 28 patches and student 'small' 14 x 14, but "
        'interpolation = "none" needs equal grids; use "bicubic" or "area", or choose patch and image sizes that give '
        "equal grids"
    )
    assert build("advit-l2", student, model("equal", 12, grid=(14, 14)), interpolation="none")


def test_area_needs_multiples():
    with pytest.raises(RecipeError) as refusal:
        build("advit-kl", model("small", 3, grid=(14, 14)), model("large", 12, grid=(28, 21)), interpolation="area")
    assert str(refusal.value) == (
        "loss 'advit-kl': teacher 'large' has 28 x 21 patches and student 'small' 14 x 14, but "
        'interpolation = "area" needs multiples of the student\'s rows and columns; use "bicubic"'
    )


def test_a_model_without_the_requested_attention_is_a_broken_plugin():
    loss = build("advit-l1", model("s", 3), model("t", 3))
    with pytest.raises(BrokenPluginError) as refusal:
        loss.target(Outputs())
    assert (
        str(refusal.value) == "a loss reads cls_attention and the model returned none; its plugin breaks the contract"
    )


@pytest.mark.parametrize(
    ("name", "given_options", "sentence"),
    [
        ("advit-kl", {"form": "twice"}, "'form' is 'twice'; it should be 'resoftmax' or 'direct'"),
        ("advit-kl", {"tau": 0.0}, "'tau' is 0.0; it should be greater than 0"),
        ("advit-l1", {"heads": "max"}, "'heads' is 'max'; it should be 'mean', 'group' or 'logsum'"),
        (
            "advit-l1",
            {"interpolation": "cubic"},
            "'interpolation' is 'cubic'; it should be 'bicubic', 'area' or 'none'",
        ),
        ("advit-l2", {"tau": 1.0}, "unknown key 'tau'; known: heads, interpolation"),
    ],
)
def test_wrong_options_are_refused_by_key(name, given_options, sentence):
    with pytest.raises(RecipeError) as refusal:
        installed_plugins().find("loss", name).options(given_options)
    assert str(refusal.value) == f"loss '{name}': {sentence}"
