import numpy as np
from sklearn.datasets import load_digits

from distillkit.recipe.image_tables import Data
from distillkit_plugins.datasets import digits as digits_module
from distillkit_plugins.datasets.digits import Digits, _table


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


def test_the_file_is_read_as_scikit_learn_reads_it(monkeypatch):
    table = _table()
    shades, labels = load_digits(return_X_y=True)
    assert np.array_equal(table, np.column_stack([shades, labels]))
    # A version of scikit-learn that keeps its file elsewhere.
    monkeypatch.setattr(digits_module, "find_spec", lambda name: None)
    assert np.array_equal(_table(), table)
