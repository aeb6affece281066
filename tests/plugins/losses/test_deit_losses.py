"""DeiT's losses against their formulas in NumPy, and the statements of their docstrings."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distillkit import BatchInfo, BrokenPluginError, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit.bank.row_format import RowFormat
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import cnn, vit
from distillkit_plugins.losses.ce import LabelsOnly
from distillkit_plugins.losses.hard import HardDistillation
from distillkit_plugins.losses.soft import SoftDistillation

DISTILLED = vit("distilled", layers=2, width=4, heads=1, grid=(2, 2), distilled=True)
PLAIN = vit("plain", layers=2, width=4, heads=1, grid=(2, 2))
TEACHER = cnn("teacher", widths=(2, 3))

shapes = st.tuples(st.integers(1, 9), st.integers(2, 12))
taus = st.floats(0.25, 20.0)


def two_models(shape):
    """Logits of teacher and student, float32 values held in float64."""
    logits = arrays.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32)).map(
        lambda array: array.astype(float)
    )
    return st.tuples(logits, logits)


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def compute(loss, teacher, student):
    """The loss's only term from logits [B, K]."""
    target = loss.target(Outputs(logits=torch.from_numpy(teacher).float()))
    batch = BatchInfo(labels=None, label_mass=torch.zeros(len(student)))
    (term,) = loss(Outputs(logits=torch.from_numpy(student)), target, batch).values()
    return term.numpy()


def described(spec, classes):
    return type(spec)(**{**vars(spec), "classes": classes})


def build_soft(classes, **options):
    return SoftDistillation.build(
        SoftDistillation.Options(**options), described(PLAIN, classes), described(TEACHER, classes)
    )


@given(shapes.flatmap(two_models))
def test_hard_is_the_cross_entropy_with_the_teachers_class(logits):
    teacher, student = logits
    loss = HardDistillation.build(HardDistillation.Options(), PLAIN, TEACHER)
    expected = -log_softmax(student)[np.arange(len(student)), teacher.argmax(axis=1)]
    np.testing.assert_allclose(compute(loss, teacher, student), expected, rtol=1e-6, atol=1e-6)


@given(shapes.flatmap(two_models), taus)
def test_soft_is_the_divergence_of_the_softened_student_from_the_teacher(logits, tau):
    teacher, student = logits
    teacher_log, student_log = log_softmax(teacher / tau), log_softmax(student / tau)
    expected = tau**2 * (np.exp(teacher_log) * (teacher_log - student_log)).sum(axis=1)
    found = compute(build_soft(teacher.shape[1], tau=tau), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(shapes.flatmap(two_models), taus)
def test_numel_is_the_authors_mean_over_samples_and_classes(logits, tau):
    teacher, student = logits
    teacher_log, student_log = log_softmax(teacher / tau), log_softmax(student / tau)
    authors = (np.exp(teacher_log) * (teacher_log - student_log)).sum() * tau**2 / teacher.size
    found = compute(build_soft(teacher.shape[1], tau=tau, reduction="numel"), teacher, student)
    np.testing.assert_allclose(found.mean(), authors, rtol=1e-6, atol=1e-6)


def test_numel_is_exactly_a_thousand_times_smaller_for_a_thousand_classes():
    teacher, student = np.random.default_rng(0).normal(size=(2, 4, 1000)).astype(np.float32).astype(float)
    whole = compute(build_soft(1000), teacher, student)
    np.testing.assert_allclose(compute(build_soft(1000, reduction="numel"), teacher, student) * 1000, whole, rtol=1e-12)


def test_soft_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2) at tau 1: 3/4 log 3/2 + 1/4 log 1/2."""
    teacher, student = np.log([[0.75, 0.25]]), np.zeros((1, 2))
    assert compute(build_soft(2, tau=1.0), teacher, student) == pytest.approx(0.13081204, abs=1e-7)


@given(shapes.flatmap(two_models), taus)
def test_soft_is_zero_for_logits_equal_up_to_a_constant(logits, tau):
    teacher, _ = logits
    found = compute(build_soft(teacher.shape[1], tau=tau), teacher, teacher + 2.5)
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_label_smoothing_does_not_apply_to_the_teachers_class():
    """A student that is certain of the teacher's class has a loss of 0, whatever the labels are."""
    loss = HardDistillation.build(HardDistillation.Options(), PLAIN, TEACHER)
    certain = torch.tensor([[100.0, 0.0, 0.0]])
    batch = BatchInfo(labels=torch.full((1, 3), 1 / 3), label_mass=torch.ones(1))
    target = loss.target(Outputs(logits=torch.tensor([[2.0, 1.0, 0.0]])))
    assert loss(Outputs(logits=certain), target, batch)["hard"].item() == 0.0


def test_the_first_of_tied_classes_wins():
    loss = HardDistillation.build(HardDistillation.Options(), PLAIN, TEACHER)
    assert loss.target(Outputs(logits=torch.tensor([[1.0, 4.0, 4.0]])))["class"].tolist() == [1]


@pytest.mark.parametrize("factory", [HardDistillation, SoftDistillation])
def test_the_distillation_head_is_distilled_or_else_the_class_head(factory):
    with_token, usual = (factory.build(factory.Options(), student, TEACHER) for student in (DISTILLED, PLAIN))
    assert with_token.reads_student == {Read(Signal.DISTILL_LOGITS)}
    assert usual.reads_student == {Read(Signal.LOGITS)}
    both = Outputs(logits=torch.zeros(1, 7), distill_logits=torch.ones(1, 7).cumsum(1))
    target = with_token.target(Outputs(logits=torch.eye(7)[:1]))
    batch = BatchInfo(labels=None, label_mass=torch.zeros(1))
    name = next(iter(usual(both, target, batch)))
    assert with_token(both, target, batch)[name] != usual(both, target, batch)[name]
    assert with_token(both, target, batch)[name] == usual(Outputs(logits=both.distill_logits), target, batch)[name]


def test_weights_and_targets_are_the_papers():
    hard = HardDistillation.build(HardDistillation.Options(), DISTILLED, TEACHER)
    assert (hard.weight, hard.label_weight) == (0.5, 0.5)
    assert hard.targets == {"class": TargetSpec((), "int64")}
    soft = SoftDistillation.build(SoftDistillation.Options(), DISTILLED, TEACHER)
    assert (soft.tau, soft.weight, soft.label_weight) == (3.0, 0.1, 0.9)
    assert soft.targets == {"logits": TargetSpec((7,), "float32")}
    half = SoftDistillation.build(SoftDistillation.Options.model_validate({"lambda": 0.25}), DISTILLED, TEACHER)
    assert (half.weight, half.label_weight) == (0.25, 0.75)
    labels = LabelsOnly.build(LabelsOnly.Options(), DISTILLED, TEACHER)
    assert (labels.weight, labels.label_weight, labels.reads_student, labels.targets) == (0.0, 1.0, frozenset(), {})


def numpy_divergence(teacher, student, tau, k):
    """tau^2 * KL between the softened distributions, where the teacher's tail beyond its k largest is uniform."""
    p = np.exp(teacher / tau - np.logaddexp.reduce(teacher / tau))
    q = student / tau - np.logaddexp.reduce(student / tau)
    order = np.argsort(-teacher)
    spread = p.copy()
    spread[order[k:]] = p[order[k:]].mean()
    return tau**2 * float((spread * (np.log(spread) - q)).sum())


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_top_k_keeps_the_largest_logits_and_spreads_the_rest(tau, k):
    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    loss = build_soft(7, tau=tau, top_k=k)
    target = loss.target(Outputs(logits=teacher.float()))
    assert {name: tuple(tensor.shape) for name, tensor in target.items()} == {
        "logits": (4, k),
        "classes": (4, k),
        "tail": (4,),
    }
    term = loss(Outputs(logits=student), target, BatchInfo(labels=None, label_mass=torch.zeros(4)))["soft"]
    expected = [numpy_divergence(*pair, tau, k) for pair in zip(teacher.numpy(), student.numpy(), strict=True)]
    np.testing.assert_allclose(term.numpy(), expected, rtol=1e-6)


def test_top_k_of_all_but_one_class_is_the_whole_divergence():
    generator = torch.Generator().manual_seed(1)
    teacher, student = (torch.randn(4, 7, generator=generator) for _ in range(2))
    batch = BatchInfo(labels=None, label_mass=torch.zeros(4))
    kept, whole = build_soft(7, tau=2.0, top_k=6), build_soft(7, tau=2.0)
    terms = [
        loss(Outputs(logits=student), loss.target(Outputs(logits=teacher)), batch)["soft"] for loss in (kept, whole)
    ]
    torch.testing.assert_close(*terms)


def test_top_k_of_a_sure_teacher_stays_a_distribution_when_it_is_stored():
    """fp16 probabilities would sum to more than one here; relative logits in float16 do not."""
    logits = torch.zeros(3, 1000)
    logits[:, 0] = torch.tensor([20.0, 40.0, 200.0])
    loss = build_soft(1000, tau=1.0, top_k=10)
    row_format = RowFormat.of(loss.targets)
    stored = row_format.decode(row_format.encode(loss.target(Outputs(logits=logits))), torch.device("cpu"))
    term = loss(Outputs(logits=logits), stored, BatchInfo(labels=None, label_mass=torch.zeros(3)))["soft"]
    assert (term.abs() < 1e-4).all()


def test_top_k_of_every_class_is_refused():
    with pytest.raises(RecipeError) as refused:
        build_soft(7, top_k=7)
    assert str(refused.value) == "soft:top_k=7 keeps every one of 7 classes; leave it out"


def test_only_a_truncated_target_depends_on_options():
    assert build_soft(7, tau=2.0).target_options == frozenset()
    assert build_soft(7, tau=2.0, top_k=3).target_options == {"top_k", "tau"}


def test_a_stored_target_serves_every_temperature():
    teacher = Outputs(logits=torch.randn(3, 7, generator=torch.Generator().manual_seed(0)))
    cold, warm = build_soft(7, tau=1.0).target(teacher), build_soft(7, tau=9.0).target(teacher)
    assert torch.equal(cold["logits"], warm["logits"])


@pytest.mark.parametrize(
    ("given_options", "sentence"),
    [
        ({"tau": 0.0}, "loss 'soft': 'tau' is 0.0; it should be greater than 0"),
        ({"lambda": 1.5}, "loss 'soft': 'lambda' is 1.5; it should be less than or equal to 1"),
        ({"reduction": "mean"}, "loss 'soft': 'reduction' is 'mean'; it should be 'batchmean' or 'numel'"),
        ({"taau": 1.0}, "loss 'soft': unknown key 'taau'; did you mean 'tau'?"),
    ],
)
def test_wrong_options_are_refused_by_key(given_options, sentence):
    with pytest.raises(RecipeError) as refusal:
        installed_plugins().find("loss", "soft").options(given_options)
    assert str(refusal.value) == sentence


def test_hard_has_no_options():
    with pytest.raises(RecipeError) as refusal:
        installed_plugins().find("loss", "hard").options({"tau": 3.0})
    assert str(refusal.value) == "loss 'hard': unknown key 'tau'; known: none"


def test_a_model_without_the_requested_logits_is_a_broken_plugin():
    loss = HardDistillation.build(HardDistillation.Options(), DISTILLED, TEACHER)
    batch = BatchInfo(labels=None, label_mass=torch.zeros(1))
    with pytest.raises(BrokenPluginError) as refusal:
        loss(Outputs(logits=torch.zeros(1, 7)), {"class": torch.zeros(1, dtype=torch.int64)}, batch)
    assert (
        str(refusal.value) == "a loss reads distill_logits and the model returned none; its plugin breaks the contract"
    )
