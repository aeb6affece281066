"""Real images: scikit-learn's digits, as arrays and as PNG files in folders."""

import pytest

from distillkit.contracts.model import ModelSpec
from distillkit.data.splits import open_datasets
from distillkit.recipe.schema import Recipe


@pytest.fixture(scope="session")
def spec():
    """A student of 10 classes that sees 16 x 16 pixels."""
    return ModelSpec(
        name="student",
        architecture="student",
        kind="vit",
        classes=10,
        signals=frozenset(),
        image_size=(16, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


@pytest.fixture(scope="session")
def recipe():
    """A recipe with every augmentation on and no loader process; keyword arguments replace keys of its tables."""

    def make(**tables):
        values = {
            "data": {"workers": 0},
            "augment": {"auto": "rand-m9-mstd0.5-inc1", "erasing": 0.25},
            "mixing": {"mixup": 0.8, "cutmix": 1.0},
            "labels": {"smoothing": 0.1},
            "training": {"batch_size": 32},
        }
        for name, table in tables.items():
            values[name] = {**values.get(name, {}), **table}
        return Recipe.model_validate(values)

    return make


@pytest.fixture(scope="session")
def opened(plugins):
    """Open the data of a recipe."""
    return lambda recipe: open_datasets(recipe.data, plugins)
