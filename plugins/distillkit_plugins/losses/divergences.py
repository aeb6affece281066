"""Distances between teacher and student distributions over the last axis: [..., N] -> [...]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from distillkit_plugins.losses.attention_rows import FLOOR


def floored_log(probabilities: Tensor) -> Tensor:
    """Natural logarithm of probabilities floored at 1e-12; entries below the floor get no gradient.

    Shapes: [..., N] -> [..., N].
    """
    return probabilities.clamp(min=FLOOR).log()


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL divergence of probabilities: KL(teacher || student) = sum of teacher * log(teacher / student), in nats.

    Shapes: teacher and student [..., N] -> [...].
    Range: >= 0 for two distributions; 0 when they are equal.
    """
    return (teacher * (floored_log(teacher) - floored_log(student))).sum(dim=-1)


def softened_kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """KL divergence of scores, softened: tau^2 * KL(softmax(teacher / tau) || softmax(student / tau)), in nats.

    Given log-probabilities and tau = 1, it is the KL divergence of the probabilities themselves.
    Shapes: teacher and student [..., N] -> [...].
    Range: >= 0; 0 when the scores are equal up to a constant.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    teacher_log = functional.log_softmax(teacher / tau, dim=-1)  # [..., N]
    student_log = functional.log_softmax(student / tau, dim=-1)  # [..., N]
    # tau^2 undoes the 1 / tau^2 by which softening scales the gradients (section 2 of the paper).
    return tau**2 * functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=-1)


def l1_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """L1 distance: the sum of absolute differences.

    Shapes: teacher and student [..., N] -> [...].
    Range: 0 to 2 between distributions.
    Source: Tanaka, Ishibashi, Xu & Meng (ADViT), eq. 5.
    """
    return (student - teacher).abs().sum(dim=-1)


def squared_l2_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared L2 distance: the sum of squared differences.

    Shapes: teacher and student [..., N] -> [...].
    Range: 0 to 2 between distributions.
    Source: Tanaka, Ishibashi, Xu & Meng (ADViT), eq. 6, which writes the L2 norm and sums squares without a root.
    """
    return (student - teacher).square().sum(dim=-1)
