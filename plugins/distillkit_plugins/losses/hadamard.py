"""Hadamard matrices, and rotations that give every channel the same variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(order: int) -> Tensor | None:
    """A Hadamard matrix [n, n] of entries 1 and -1 in float64, with H H' = n; None for an order without one here.

    Orders are 2^k, and 2^k times q + 1 or 2 (q + 1) for a prime q: Sylvester's doubling of a Paley matrix. These are
    the widths of today's ViTs: 384 = 32 * 12, 768 = 64 * 12, 1152 = 32 * 36, 1280 = 64 * 20, 1408 = 32 * 44.
    Source: Paley 1933, "On orthogonal matrices", for both constructions.
    """
    powers = (order & -order).bit_length() - 1  # how often 2 divides the order
    for doublings in range(powers, -1, -1):
        core = order >> doublings
        matrix = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
        if matrix is not None:
            break
    else:
        return None
    for _ in range(doublings):
        matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))  # [2 n, 2 n]
    return matrix


def _paley(order: int) -> Tensor | None:
    """Paley's first construction for order q + 1, q = 3 mod 4, or the second for 2 (q + 1), q = 1 mod 4; else None."""
    if order > 2 and (order - 1) % 4 == 3 and _is_prime(order - 1):
        return _conference(order - 1, symmetric=False) + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if order % 2 == 0 and half > 2 and (half - 1) % 4 == 1 and _is_prime(half - 1):
        core, unit = _conference(half - 1, symmetric=True), torch.eye(half, dtype=torch.float64)
        return torch.cat((torch.cat((core + unit, core - unit), dim=1), torch.cat((core - unit, -core - unit), dim=1)))
    return None


def _conference(prime: int, *, symmetric: bool) -> Tensor:
    """Conference matrix [q + 1, q + 1]: zeros on the diagonal, quadratic residues of q elsewhere, C C' = q."""
    residues = {number * number % prime for number in range(1, prime)}
    symbol = torch.tensor([0.0] + [1.0 if number in residues else -1.0 for number in range(1, prime)]).double()
    places = torch.arange(prime)
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[1:, 1:] = symbol[(places[:, None] - places[None]) % prime]
    matrix[0, 1:] = 1.0
    matrix[1:, 0] = 1.0 if symmetric else -1.0
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def equalising_rotation(variances: Tensor) -> Tensor:
    """An orthogonal matrix Q [D, D] in float64, with the same diagonal entry everywhere in Q diag(variances) Q'.

    With a Hadamard matrix H of order D, Q is H / sqrt(D). Without one, Q is a product of D - 1 rotations of two
    channels, each of which gives one of them the mean of all variances: it exists for every D, and depends on the
    variances.
    Shapes: variances [D], at least 0.
    Source: Bendel & Mickey 1978, "Population correlation matrices for sampling experiments", for the rotations.
    """
    size = len(variances)
    matrix = hadamard(size)
    return _by_rotations(variances.double().cpu()) if matrix is None else matrix / math.sqrt(size)


def _by_rotations(variances: Tensor) -> Tensor:
    size, mean = len(variances), variances.mean()
    covariance, rotation = torch.diag(variances), torch.eye(size, dtype=torch.float64)
    open_channels = list(range(size))
    while len(open_channels) > 1:
        diagonal = covariance.diagonal()[open_channels]
        low, high = open_channels[int(diagonal.argmin())], open_channels[int(diagonal.argmax())]
        a, b, c = covariance[low, low], covariance[high, high], covariance[low, high]
        if b - a <= 0:  # all are equal
            break
        # t = sine / cosine solves a - 2 t c + t^2 b = mean (1 + t^2); the root exists because a <= mean <= b.
        root = (c * c - (a - mean) * (b - mean)).clamp(min=0).sqrt()
        t = (c + torch.copysign(root, c)) / (b - mean) if b > mean else torch.zeros_like(c)
        cosine = 1 / (1 + t * t).sqrt()
        turn = torch.stack((torch.stack((cosine, -t * cosine)), torch.stack((t * cosine, cosine))))  # [2, 2]
        pair = [low, high]
        covariance[pair] = turn @ covariance[pair]
        covariance[:, pair] = covariance[:, pair] @ turn.T
        rotation[pair] = turn @ rotation[pair]
        open_channels.remove(low)
    return rotation
