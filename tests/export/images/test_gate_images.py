"""Images of the gate: given ones and sample photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import DataError, ShapeError
from distillkit_export.images.gate_images import given_images, photographs

SPEC = ModelSpec(
    name="student",
    architecture="student",
    kind="vit",
    classes=10,
    signals=frozenset({Signal.LOGITS}),
    image_size=(16, 24),
)


def test_images_and_batches_of_tensors_and_arrays_are_collected():
    images = [torch.ones(3, 16, 24, dtype=torch.bfloat16, requires_grad=True), np.zeros((2, 3, 16, 24))]
    collected = given_images(images, SPEC)
    assert collected.pixels.shape == (3, 3, 16, 24)
    assert collected.pixels.dtype == np.float32
    assert collected.pixels.mean(axis=(1, 2, 3)).tolist() == [1, 0, 0]
    assert (collected.source, collected.weak) == ("given by the caller", False)


def test_one_array_of_images_is_a_sequence_of_images():
    assert given_images(np.zeros((5, 3, 16, 24)), SPEC).pixels.shape == (5, 3, 16, 24)


def test_wrong_shape_is_refused():
    with pytest.raises(ShapeError) as error:
        given_images([np.zeros((3, 24, 16))], SPEC)
    assert str(error.value) == (
        "images of shape [1, 3, 24, 16] do not fit model 'student', which takes [batch, 3, 16, 24]"
    )


def test_no_image_is_refused():
    with pytest.raises(DataError) as error:
        given_images([], SPEC)
    assert str(error.value) == (
        "there is no image for the parity check; give at least one, or None for sample photographs"
    )


def test_photographs_are_normalised_crops_that_differ():
    collected = photographs(SPEC, "a reason was needed")
    assert collected.pixels.shape == (54, 3, 16, 24)
    assert len({image.tobytes() for image in collected.pixels}) == 54
    assert collected.weak
    assert collected.source == "crops of two photographs that scikit-learn ships, because a reason was needed"
    china = Image.fromarray(load_sample_images().images[0])
    corner = (0, 0, 0.9 * china.width, 0.9 * china.height)
    china = china.resize((24, 16), Image.Resampling.BICUBIC, corner)
    expected = (np.asarray(china).transpose(2, 0, 1) / 255 - np.reshape(SPEC.mean, (3, 1, 1))) / np.reshape(
        SPEC.std, (3, 1, 1)
    )
    np.testing.assert_allclose(collected.pixels[0], expected, rtol=1e-5, atol=1e-6)


def test_photographs_are_grey_for_one_channel():
    assert photographs(replace(SPEC, mean=(0.5,), std=(0.5,)), "x").pixels.shape == (54, 1, 16, 24)
