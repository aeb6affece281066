"""A distillation small enough for a test: digits, a two-block student, everything random switched on."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from distillkit.recipe.schema import Recipe

BASE: dict[str, Any] = {
    "data": {"train": "digits", "workers": 0},
    "augment": {"crop": "padded", "padding": 1, "flip": 0.5, "erasing": 0.5},
    "mixing": {"mixup": 0.8, "cutmix": 1.0},
    "labels": {"smoothing": 0.1},
    "student": {
        "model": "deit-ti",
        "image_size": 8,
        "patch": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "drop_path": 0.3,
    },
    "training": {"steps": 24, "batch_size": 64, "log_every": 5, "device": "cpu", "precision": "fp32"},
    "schedule": {"warmup_epochs": 0.2},
}


@pytest.fixture
def recipe_of() -> Any:
    """`recipe_of({"training": {"steps": 3}}, ...)`: the base with tables updated."""

    def make(*changes: dict[str, Any]) -> Recipe:
        data = copy.deepcopy(BASE)
        for change in changes:
            for table, values in change.items():
                if isinstance(values, dict):
                    data.setdefault(table, {}).update(values)
                else:
                    data[table] = values
        return Recipe.model_validate(data)

    return make


@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run directory of a small CNN that saw a few digits: a real teacher, if not a good one."""
    from distillkit.plugin.registry import installed_plugins
    from distillkit.running.api import run

    data = copy.deepcopy(BASE) | {"student": {"model": "small-cnn", "width": 8, "image_size": 8}}
    data["augment"] = {"crop": "none", "flip": 0.0}
    data["mixing"] = {}
    out = tmp_path_factory.mktemp("teacher") / "run"
    run(Recipe.model_validate(data), out, installed_plugins())
    return f"run:{out}"


@pytest.fixture(scope="session")
def attentive_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run directory of a ViT that saw a few digits: a teacher with attention, wider than its student."""
    from distillkit.plugin.registry import installed_plugins
    from distillkit.running.api import run

    data = copy.deepcopy(BASE) | {"student": BASE["student"] | {"model": "vit-ti", "width": 24}}
    data["training"] = BASE["training"] | {"steps": 4}
    out = tmp_path_factory.mktemp("attentive") / "run"
    run(Recipe.model_validate(data), out, installed_plugins())
    return f"run:{out}"
