"""How far the student's distribution is from the teacher's. One value per row: [..., N] become [...]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from distillkit_plugins.losses.attention_rows import FLOOR


def floored_log(probabilities: Tensor) -> Tensor:
    """The natural logarithm; probabilities below 1e-12 count as 1e-12, and get no gradient."""
    return probabilities.clamp(min=FLOOR).log()


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) = sum of teacher * log(teacher / student), in nats; at least 0 for two distributions."""
    return (teacher * (floored_log(teacher) - floored_log(student))).sum(dim=-1)


def softened_kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """tau^2 * KL(softmax(teacher / tau) || softmax(student / tau)) of two sets of scores, in nats.

    Of the logarithms of two distributions, with tau = 1, it is the divergence of the distributions themselves.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    expected = functional.log_softmax(teacher / tau, dim=-1)
    found = functional.log_softmax(student / tau, dim=-1)
    return tau**2 * functional.kl_div(found, expected, reduction="none", log_target=True).sum(dim=-1)


def l1_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """The sum of absolute differences, from 0 to 2 between distributions.

    Source: Tanaka, Ishibashi, Xu & Meng (ADViT), eq. 5.
    """
    return (student - teacher).abs().sum(dim=-1)


def squared_l2_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """The sum of squared differences, from 0 to 2 between distributions.

    Source: Tanaka, Ishibashi, Xu & Meng (ADViT), eq. 6, which writes the L2 norm and sums squares without a root.
    """
    return (student - teacher).square().sum(dim=-1)
