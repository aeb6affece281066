"""Hadamard matrices and the rotation that equalises variances; PHI-S with it: unit variances, distances kept."""

import numpy as np
import pytest
import torch

from distillkit_plugins.losses.hadamard import equalising_rotation, hadamard
from distillkit_plugins.losses.target_normalisation import TargetNormalisation, phi_s_matrix

WIDTHS = (1, 2, 4, 12, 20, 28, 36, 44, 192, 384, 768, 1024, 1152, 1280)


@pytest.mark.parametrize("order", WIDTHS)
def test_matrices_are_hadamard(order):
    matrix = hadamard(order)
    assert matrix.abs().unique().tolist() == [1.0]
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 5, 6, 10, 92])
def test_other_orders_have_none_here_and_still_equal_variances(order):
    assert hadamard(order) is None
    variances = torch.linspace(0, 3, order, dtype=torch.float64) ** 4
    rotation = equalising_rotation(variances)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(order, dtype=torch.float64), atol=1e-12, rtol=0)
    diagonal = (rotation @ torch.diag(variances) @ rotation.T).diagonal()
    torch.testing.assert_close(diagonal, variances.mean().expand(order), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("width", [8, 10, 12])
def test_phi_s_gives_every_channel_the_same_variance_and_keeps_ratios_of_distances(width):
    generator = np.random.default_rng(1)
    sample = generator.standard_normal((50, width)) @ generator.standard_normal((width, width)) + 1000
    layer = TargetNormalisation("phi-s", width).double()
    moments = layer.moments()
    for part in np.array_split(sample, 4):
        moments.add(torch.from_numpy(part))
    layer.fit(moments, what="the features")
    done = layer(torch.from_numpy(sample)).numpy()
    np.testing.assert_allclose(done.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(done.std(axis=0), 1, atol=1e-9)
    before, after = (np.linalg.norm(each[1:] - each[:-1], axis=1) for each in (sample, done))
    np.testing.assert_allclose(before / after, np.sqrt(sample.var(axis=0).mean()), rtol=1e-9)


def test_negative_eigenvalues_count_as_zero():
    covariance = torch.diag(torch.tensor([4.0, 1.0, -1e-12, -2.0], dtype=torch.float64))
    phi = (torch.tensor(5.0) / 4).sqrt()
    matrix = phi_s_matrix(covariance)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(4, dtype=torch.float64) / phi.double() ** 2)


def test_a_constant_channel_of_standardise_stays_zero():
    layer = TargetNormalisation("standardise", 2).double()
    moments = layer.moments()
    moments.add(torch.tensor([[1.0, 3.0], [5.0, 3.0]]))
    layer.fit(moments, what="the features")
    assert layer(torch.tensor([[5.0, 3.0], [3.0, 9.0]]).double()).tolist() == [[1.0, 0.0], [0.0, 0.0]]
