import numpy as np

from distillkit.recipe.schema import Data
from distillkit_plugins.datasets.digits import Digits


def opened(split):
    return Digits.open(None, Data(), split)


def numbers(source):
    return {int(source.key(index)) for index in range(len(source))}


def test_the_split_is_fixed_and_complete(digits):
    train, test = opened("train"), opened("test")
    assert (len(train), len(test)) == (1297, 500)
    assert numbers(train) | numbers(test) == set(range(1797))
    assert opened("validation") is None
    assert np.bincount([test.label(index) for index in range(500)]).tolist() == [50] * 10


def test_the_test_images_of_a_class_are_evenly_spaced(digits):
    # 178 zeros: floor(1.78), floor(5.34), floor(8.9) of them
    zeros = np.flatnonzero(digits[1] == 0)
    assert sorted(numbers(opened("test")) & set(zeros.tolist()))[:3] == zeros[[1, 5, 8]].tolist()


def test_images_are_the_shades_in_rgb(digits):
    source = opened("train")
    image = source.image(7)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    number = int(source.key(7))
    assert np.array_equal(np.asarray(image), np.repeat(digits[0][number][:, :, None], 3, axis=2))
    assert source.label(7) == digits[1][number]
    assert digits[0].max() == 255
