"""Normalisation of a teacher's features, without parameters or with statistics over training images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillkit import DataError
from distillkit_plugins.losses.hadamard import equalising_rotation
from distillkit_plugins.losses.options import Normalisation

EPSILON = 1e-5
"""Epsilon of the layer norm, torch's default."""


class Moments:
    """Mean and variance, or covariance, of vectors that come in batches; in float64, as divided by their number."""

    def __init__(self, *, covariance: bool) -> None:
        self.covariance = covariance
        self.count = 0
        self.origin = self.sums = self.products = torch.zeros(())

    def add(self, vectors: Tensor) -> None:
        """Add vectors [..., D]."""
        vectors = vectors.detach()
        vectors = vectors.cpu() if vectors.device.type == "mps" else vectors  # which has no float64
        flat = vectors.double().reshape(-1, vectors.shape[-1])  # [n, D]
        if not self.count:
            # Relative to a vector near the mean, so that a mean far from 0 loses no digits.
            self.origin = flat[0].clone()
        flat = flat - self.origin
        self.count += len(flat)
        products = flat.T @ flat if self.covariance else flat.square().sum(dim=0)
        self.sums, self.products = self.sums.to(flat) + flat.sum(dim=0), self.products.to(flat) + products

    @property
    def mean(self) -> Tensor:
        """Mean [D]."""
        return (self.origin + self.sums / self.count).cpu()

    @property
    def spread(self) -> Tensor:
        """Variance [D], or covariance [D, D]."""
        shift = self.sums / self.count
        return (self.products / self.count - (torch.outer(shift, shift) if self.covariance else shift.square())).cpu()


class TargetNormalisation(nn.Module):
    """Normalise a teacher's vectors of one layer.

    Formula: layernorm (x - mean(x)) / std(x) over the width, without scale and shift; l2 x / |x|; standardise
        (x - mu) / sigma per channel; phi-s Q U' (x - mu) / phi, with mu and U diag(lambda) U' the mean and covariance,
        phi^2 = mean(lambda), and Q the rotation of `equalising_rotation`.
    Shapes: [..., D] -> [..., D], in the dtype of the input. Buffers in float32: mean [D]; scale [D] for standardise,
        matrix [D, D] for phi-s. Until `fit` they change nothing.
    Range: after standardise and phi-s every channel has mean 0 and variance 1 over the images of `fit`; phi-s is the
        only one of the two that keeps ratios of distances.
    Source: layernorm Wei et al. 2022 (Feature Distillation), arXiv:2205.14141; phi-s Ranzinger et al. 2024,
        arXiv:2410.01680.
    Differs: statistics are computed once in float64 before the first step. For a width without a Hadamard matrix here,
        phi-s uses rotations of two channels with the same result. A constant channel of standardise stays 0.
    """

    def __init__(self, kind: Normalisation, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.width = width
        self.mean: Tensor
        self.scale: Tensor
        self.matrix: Tensor
        if self.needs_statistics:
            self.register_buffer("mean", torch.zeros(width))
        if kind == "standardise":
            self.register_buffer("scale", torch.ones(width))
        if kind == "phi-s":
            self.register_buffer("matrix", torch.eye(width))

    @property
    def needs_statistics(self) -> bool:
        return self.kind in {"standardise", "phi-s"}

    def moments(self) -> Moments:
        """Where to collect the vectors for `fit`."""
        return Moments(covariance=self.kind == "phi-s")

    def fit(self, moments: Moments, *, what: str) -> None:
        """Set the buffers from collected vectors.

        Raises: DataError if they do not vary; `what` names them.
        """
        variances = moments.spread.diagonal() if self.kind == "phi-s" else moments.spread
        if not float(variances.mean()) > 0:
            raise DataError(
                f"{what} is the same for all {moments.count:,} vectors of the training images, so there are no "
                'statistics; check the weights of the teacher, or set normalise = "layernorm"'
            )
        self.mean.copy_(moments.mean)
        if self.kind == "standardise":
            self.scale.copy_(torch.where(variances > 0, variances.clamp(min=1e-300).rsqrt(), 0.0))
        else:
            self.matrix.copy_(phi_s_matrix(moments.spread))

    def forward(self, vectors: Tensor) -> Tensor:
        if self.kind == "layernorm":
            return functional.layer_norm(vectors, (self.width,), eps=EPSILON)
        if self.kind == "l2":
            return functional.normalize(vectors, dim=-1)
        if self.kind == "none":
            return vectors
        centred = vectors - self.mean.to(vectors.dtype)
        if self.kind == "standardise":
            return centred * self.scale.to(vectors.dtype)
        return centred @ self.matrix.to(vectors.dtype).T


def phi_s_matrix(covariance: Tensor) -> Tensor:
    """The matrix Q U' / phi [D, D] in float64, from a covariance U diag(lambda) U' [D, D]. Negative lambda become 0."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    # A fixed sign: that of an eigenvector is arbitrary, and the last bits of the covariance may decide it.
    largest = vectors.abs().argmax(dim=0, keepdim=True)  # [1, D]
    vectors = vectors * vectors.gather(0, largest).sign()
    matrix: Tensor = equalising_rotation(values) @ vectors.T / values.mean().sqrt()
    return matrix


def fit_all(normalisations: Iterable[TargetNormalisation], moments: Iterable[Moments], *, what: str) -> None:
    """Fit one normalisation per layer. Raises: as `TargetNormalisation.fit`."""
    for normalisation, collected in zip(normalisations, moments, strict=True):
        normalisation.fit(collected, what=what)
