"""Runs to compare: one real run, and copies of it with other seeds, settings and figures."""

import json
import shutil

import pytest

from distillkit.recipe.files import with_values

SETTINGS = {
    "data": {"train": "digits", "workers": 0},
    "student": {"model": "small-cnn", "width": 4, "image_size": 8},
    "augment": {"crop": "none", "flip": 0.0, "eval_crop": 1.0},
    "training": {"steps": 6, "batch_size": 64, "log_every": 2, "threads": 1, "device": "cpu"},
    "trackers": ["metrics"],
}


@pytest.fixture(scope="session")
def real_run(tmp_path_factory):
    """A student of six steps on digits."""
    import distillkit

    out = tmp_path_factory.mktemp("compared") / "run"
    distillkit.run("digits", out, loss="ce", **SETTINGS)
    return out


@pytest.fixture
def copy_run(real_run, tmp_path):
    """Copy the run and change keys and figures: `copy_run("hard-0", {"seed": 1}, {"test/top1": 90.0})`."""

    def copy(name, keys=None, figures=None, *, plan=None, result=None):
        path = tmp_path / name
        shutil.copytree(real_run, path, ignore=shutil.ignore_patterns("checkpoints"))
        if keys:
            (path / "recipe.toml").write_text(with_values(path / "recipe.toml", keys))
        change(path / "result.json", {**(result or {}), "figures": figures or {}})
        change(path / "plan.json", plan or {})
        return path

    return copy


def change(file, values):
    """Change values of a JSON file; those of a table are added to it."""
    content = json.loads(file.read_text())
    for key, value in values.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(content))
