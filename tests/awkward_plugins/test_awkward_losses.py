"""Conformance of three awkward losses: one that reads labels, one with projectors, one on attention."""

import importlib

import numpy as np
import pytest
import torch

from distillkit import BatchInfo, BrokenPluginError, Outputs, UserError
from distillkit.testing import PAIRS, SlowListingWarning, check_loss

pytestmark = pytest.mark.filterwarnings(f"ignore::{SlowListingWarning.__module__}.{SlowListingWarning.__qualname__}")


@pytest.mark.parametrize("name", ["label_aware", "two_stages", "attention_row"])
def test_conforms(install, name):
    install(f"contract_{name}")
    check_loss(name.replace("_", "-"))


def test_a_loss_that_fits_no_pair_of_models_is_reported_with_all_reasons(install):
    install("contract_two_stages")
    with pytest.raises(BrokenPluginError) as refusal:
        check_loss("two-stages", {"stages": [4, 5]}, pairs=PAIRS[2:])
    assert str(refusal.value) == (
        "loss 'two-stages' of contract-two-stages 0.1 breaks the contract in one way:\n"
        "  - does not support any of the pairs of models tried: "
        "ViT from a CNN: loss 'two-stages' reads stages (4, 5); 'paper-cnn' has 4; "
        "CNN from a CNN: loss 'two-stages' reads stages (4, 5); 'paper-small-cnn' has 4"
    )


def test_the_terms_of_decoupled_distillation_add_up_to_the_kl_divergence(install):
    """Eq. 6 of the paper: KL(teacher || student) = target class + (1 - p_y) * other classes."""
    install("contract_label_aware")
    factory = importlib.import_module("contract_label_aware").DecoupledDistillation
    options = factory.Options(tau=2.0, alpha=1.0, beta=1.0)
    loss = factory.build(options, PAIRS[0].student, PAIRS[0].teacher)
    teacher, student = (3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    labels = torch.eye(7)[[0, 6, 3, 3, 1]]
    terms = loss(
        Outputs(logits=student.double()), loss.target(Outputs(logits=teacher)), BatchInfo(labels, torch.ones(5))
    )
    p_teacher, p_student = (_softmax(logits.double().numpy() / 2) for logits in (teacher, student))
    divergence = 4 * (p_teacher * np.log(p_teacher / p_student)).sum(axis=1)
    p_label = p_teacher[np.arange(5), labels.argmax(dim=1).numpy()]
    total = terms["target_class"].numpy() + (1 - p_label) * terms["other_classes"].numpy()
    np.testing.assert_allclose(total, divergence, rtol=1e-6)


def test_decoupled_distillation_refuses_a_run_without_labels(install):
    install("contract_label_aware")
    factory = importlib.import_module("contract_label_aware").DecoupledDistillation
    loss = factory.build(factory.Options(), PAIRS[0].student, PAIRS[0].teacher)
    with pytest.raises(UserError) as refusal:
        loss(Outputs(logits=torch.zeros(2, 7)), {"logits": torch.zeros(2, 7)}, BatchInfo(None, torch.zeros(2)))
    assert str(refusal.value) == (
        "loss 'label-aware' reads the labels and this run has none; give labels or choose another"
    )


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
