"""Fixtures: install the awkward plugins as pip would, and train small teachers for them."""

import shutil
from pathlib import Path

import pytest

from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run

PLUGINS = Path(__file__).parent / "plugins"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a distribution of one file of plugins/: `install("contract_label_aware")`."""

    def add(*modules: str) -> None:
        site = tmp_path / "site"
        for module in modules:
            metadata = site / f"{module}-0.1.dist-info"
            metadata.mkdir(parents=True)
            name = module.replace("_", "-")
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
            (metadata / "entry_points.txt").write_text(f"[distillkit]\n{name} = {module}\n")
            shutil.copy(PLUGINS / f"{module}.py", site)
        monkeypatch.syspath_prepend(site)

    return add


def recipe_of(student, *, steps=6, **tables):
    """A recipe on digits that trains in a second."""
    return Recipe.model_validate(
        {
            "data": {"workers": 0},
            "augment": {"crop": "none", "flip": 0.0},
            "student": student,
            "training": {"steps": steps, "batch_size": 32, "log_every": 1, "device": "cpu", "precision": "fp32"},
            "trackers": ["metrics"],
            **tables,
        }
    )


@pytest.fixture(name="recipe_of")
def fixture_recipe_of():
    return recipe_of


@pytest.fixture(scope="session")
def teachers(tmp_path_factory):
    """Two small CNNs trained for a few steps on digits, by width."""
    runs = {}
    for width in (4, 8):
        out = tmp_path_factory.mktemp("teachers") / f"width-{width}"
        run(recipe_of({"model": "small-cnn", "width": width, "image_size": 8}), out, installed_plugins())
        runs[width] = f"run:{out}"
    return runs
