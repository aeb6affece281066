"""Fixtures for the tests of attention losses: interpolation and attention rows, in NumPy."""

import numpy as np
import pytest


def keys_weights(inside, outside):
    """Weights [outside, inside] of cubic convolution, a = -0.75; borders repeated, no antialiasing."""
    matrix = np.zeros((outside, inside))
    for row in range(outside):
        centre = (row + 0.5) * inside / outside - 0.5
        for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - place)
            if x <= 1:
                weight = 1.25 * x**3 - 2.25 * x**2 + 1
            else:
                weight = -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
            matrix[row, min(max(place, 0), inside - 1)] += weight
    return matrix


def block_weights(inside, outside):
    """Weights [outside, inside] of the mean over blocks."""
    return np.kron(np.eye(outside), np.full((1, inside // outside), outside / inside))


def resample_in_numpy(patches, source, goal, interpolation):
    if source == goal:
        return patches
    weights = block_weights if interpolation == "area" else keys_weights
    rows, columns = (weights(inside, outside) for inside, outside in zip(source, goal, strict=True))
    images = patches.reshape(*patches.shape[:-1], *source)
    return (rows @ images @ columns.T).reshape(*patches.shape[:-1], -1)


@pytest.fixture
def numpy_resample():
    """`numpy_resample(patches, source, goal, interpolation)`."""
    return resample_in_numpy


@pytest.fixture
def some_rows():
    """`some_rows(seed, *shape)`: distributions over the last axis, in float64, with some entries 0."""

    def make(seed, *shape):
        generator = np.random.default_rng(seed)
        rows = np.exp(2 * generator.normal(size=shape)) * (generator.random(shape) > 0.1)
        rows[..., 0] += 0.01
        # float32 values, as a target keeps them
        return (rows / rows.sum(axis=-1, keepdims=True)).astype(np.float32).astype(float)

    return make
