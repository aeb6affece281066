from dataclasses import replace

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps

from distillkit.data.randomness import isolated, reseed
from distillkit.data.transforms import evaluation_transform, training_transform
from distillkit.errors import RecipeError
from distillkit.recipe.image_tables import Augment


@pytest.fixture
def picture(digits):
    """A real digit in RGB."""
    return Image.fromarray(digits[0][3]).convert("RGB")


def pixels(image, spec):
    """An RGB image as a normalised tensor without any transform, computed with NumPy."""
    mean, std = (np.array(value).reshape(3, 1, 1) for value in (spec.mean, spec.std))
    return torch.from_numpy((np.asarray(image).transpose(2, 0, 1) / 255 - mean) / std).float()


def augmented(transform, image, seed=0):
    with isolated():
        reseed(seed)
        return transform(image)


@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (12, 20)])
def test_small_images_are_resized_to_the_student(picture, spec, crop, size):
    spec = replace(spec, image_size=size)
    transform = training_transform(Augment(crop=crop, auto="rand-m9-mstd0.5-inc1", erasing=0.5), spec)
    for seed in range(20):
        found = augmented(transform, picture, seed)
        assert found.shape == (3, *size)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
    assert evaluation_transform(Augment(), spec)(picture).shape == (3, *size)


def test_without_crop_and_flip_an_image_of_the_right_size_is_only_normalised(picture, spec):
    spec = replace(spec, image_size=(8, 8))
    found = augmented(training_transform(Augment(crop="none", flip=0.0), spec), picture)
    torch.testing.assert_close(found, pixels(picture, spec))


def test_evaluation_without_a_crop_leaves_an_image_of_the_right_size_unchanged(picture, spec):
    spec = replace(spec, image_size=(8, 8))
    found = evaluation_transform(Augment(eval_crop=1.0), spec)(picture)
    torch.testing.assert_close(found, pixels(picture, spec))


def with_orientation(image, orientation):
    """The image with EXIF data, as a JPEG file of a phone has after decoding and conversion to RGB."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.copy()
    image.info["exif"] = exif.tobytes()
    return image


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
def test_images_are_upright_in_training_and_evaluation_unless_used_as_stored(picture, spec, orientation, crop):
    image, upright = (
        with_orientation(picture, orientation),
        ImageOps.exif_transpose(with_orientation(picture, orientation)),
    )
    assert image.tobytes() != upright.tobytes()
    for transform in (training_transform, evaluation_transform):
        obeys = transform(Augment(crop=crop, auto="rand-m9-mstd0.5-inc1"), spec)
        stored = transform(Augment(crop=crop, auto="rand-m9-mstd0.5-inc1", orientation="stored"), spec)
        assert torch.equal(augmented(obeys, image), augmented(obeys, upright))
        assert torch.equal(augmented(stored, image), augmented(stored, picture))
        assert not torch.equal(augmented(obeys, image), augmented(stored, image))


def test_evaluation_resizes_and_crops_as_deit_does(spec):
    image = Image.fromarray(np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3))
    spec = replace(spec, image_size=(28, 28))
    # int(28 / 0.875) = 32 on the short side: 32 x 48, then the middle 28 x 28
    resized = image.resize((48, 32), Image.Resampling.BICUBIC).crop((10, 2, 38, 30))
    torch.testing.assert_close(evaluation_transform(Augment(), spec)(image), pixels(resized, spec))


def test_without_crop_the_aspect_ratio_is_kept_and_the_centre_cropped(spec):
    image = Image.fromarray(np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3))
    spec = replace(spec, image_size=(20, 20))
    expected = image.resize((30, 20), Image.Resampling.BICUBIC).crop((5, 0, 25, 20))
    found = augmented(training_transform(Augment(crop="none", flip=0.0), spec), image)
    torch.testing.assert_close(found, pixels(expected, spec))


def test_a_padded_crop_is_the_shifted_image(picture, spec):
    spec = replace(spec, image_size=(8, 8))
    transform = training_transform(Augment(crop="padded", padding=2, flip=0.0), spec)
    padded = pixels(Image.fromarray(np.pad(np.asarray(picture), ((2, 2), (2, 2), (0, 0)))), spec)
    windows = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    found = [augmented(transform, picture, seed) for seed in range(60)]
    places = {
        next(place for place, window in enumerate(windows) if torch.allclose(one, window, atol=1e-5)) for one in found
    }
    assert len(places) > 15


def test_flip_mirrors_half_of_the_images(picture, spec):
    spec = replace(spec, image_size=(8, 8))
    transform = training_transform(Augment(crop="none"), spec)
    plain = pixels(picture, spec)
    flips = [torch.allclose(augmented(transform, picture, seed), plain.flip(2), atol=1e-5) for seed in range(200)]
    assert 70 < sum(flips) < 130


def test_erasing_puts_noise_into_a_box(picture, spec):
    plain = augmented(training_transform(Augment(crop="none", flip=0.0), spec), picture)
    erased = augmented(training_transform(Augment(crop="none", flip=0.0, erasing=1.0), spec), picture)
    changed = (plain != erased).any(0)
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    assert len(erased[:, changed].unique()) == erased[:, changed].numel()  # every pixel its own


def test_colour_jitter_changes_colours(picture, spec):
    plain = augmented(training_transform(Augment(crop="none", flip=0.0), spec), picture)
    jittered = augmented(training_transform(Augment(crop="none", flip=0.0, color_jitter=0.4), spec), picture)
    assert not torch.equal(plain, jittered)


@pytest.mark.parametrize("auto", ["rand-m9-mstd0.5-inc1", "rand-m15-mstd0.5-inc1", "v0"])
def test_auto_augment_never_fails(picture, spec, auto):
    # Pillow 13 rejects posterize(bits=0), which these strings sometimes draw; pyproject.toml excludes it.
    assert int(PIL.__version__.split(".")[0]) < 13
    transform = training_transform(Augment(auto=auto), spec)
    with isolated():
        for seed in range(1500):
            reseed(seed)
            transform(picture)


@pytest.mark.parametrize(
    ("auto", "reason"), [("banana", "Unknown AA policy banana"), ("rand-x9", "Unknown RandAugment config section")]
)
def test_an_invalid_auto_augment_string_is_refused(spec, auto, reason):
    with pytest.raises(RecipeError) as caught:
        training_transform(Augment(auto=auto), spec)
    assert str(caught.value) == (
        f"augment.auto = '{auto}' is not a valid auto-augment string of timm ({reason}); "
        "give one such as rand-m9-mstd0.5-inc1"
    )
