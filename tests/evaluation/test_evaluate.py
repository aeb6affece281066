"""`evaluate` on a real run of one step: whose distillation head no term trained."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkit.errors import ClassSpaceError, DataError, RunDirectoryError, UserError
from distillkit.hooks import installed_plugins
from distillkit.recipe import Recipe
from distillkit.runner import evaluate, run

STUDENT = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
PLUGINS = installed_plugins()


def write_pictures(root: Path, classes: tuple[str, ...]) -> str:
    """Four pictures of noise for each class and split."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three classes, by labels alone."""
    home = tmp_path_factory.mktemp("evaluate")
    tables = {
        "data": {"train": write_pictures(home / "pets", ("cat", "dog", "eel")), "validation": 0.25, "workers": 0},
        "augment": {"crop": "none", "eval_crop": 1.0},
        "student": STUDENT,
        "training": {"steps": 1, "batch_size": 4, "device": "cpu", "precision": "fp32"},
    }
    run(Recipe.model_validate(tables), home / "run", PLUGINS)
    return home / "run"


def refused(kind: type[UserError], *arguments: object, **named: object) -> str:
    with pytest.raises(kind) as error:
        evaluate(*arguments, PLUGINS, **named)
    return str(error.value)


def test_figures_are_those_of_the_head_that_was_trained(folder: Path) -> None:
    assert evaluate(str(folder), PLUGINS).keys() == {"test/class_top1", "test/top1", "test/loss", "test/images"}
    assert evaluate(str(folder), PLUGINS, split="validation")["validation/images"] == 3.0


@pytest.mark.parametrize("head", ["distill", "fused"])
def test_a_head_that_no_term_trained_is_no_answer(folder: Path, head: str) -> None:
    assert refused(UserError, str(folder), head=head) == (
        f"no term trained the distillation head of '{folder}'; leave out --head or say --head class"
    )


def test_a_head_that_is_not_there() -> None:
    assert refused(UserError, "timm:resnet10t", weights="none", data="digits", head="distill") == (
        "'timm:resnet10t' has no distillation head; leave out --head or say --head class"
    )


def test_other_classes_are_named(folder: Path, tmp_path: Path) -> None:
    birds = write_pictures(tmp_path / "birds", ("crow", "duck", "emu", "finch"))
    assert refused(ClassSpaceError, str(folder), data=birds) == (
        f"'{folder}' answers in 3 classes (cat, dog, eel) and '{birds}/train' has 4 classes (crow, duck, emu, ...); "
        "give --data with classes that it knows"
    )


def test_a_part_of_the_classes_is_enough(folder: Path, tmp_path: Path) -> None:
    part = write_pictures(tmp_path / "part", ("dog", "eel"))
    assert evaluate(str(folder), PLUGINS, data=part)["test/images"] == 8.0


def test_data_that_moved(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    recipe = (moved / "recipe.toml").read_text(encoding="utf-8")
    (moved / "recipe.toml").write_text(recipe.replace(str(folder.parent / "pets"), "pets"), encoding="utf-8")
    sentence = refused(DataError, str(moved))
    assert sentence.startswith("data.train: ")
    assert sentence.endswith(
        "; this is the run's own data, named from the folder in which the run was started: go there, or give --data"
    )


def test_a_name_that_is_nothing() -> None:
    sentence = refused(RunDirectoryError, "regnety16")
    assert sentence.startswith("'regnety16' is neither a run directory (with student.json) nor a teacher; teachers: ")


def test_files_can_be_read_by_whom_the_umask_lets(folder: Path) -> None:
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.suffix in {".safetensors", ".json", ".toml"}
    }
    (folder / "probe").touch()
    assert modes == {stat.S_IMODE((folder / "probe").stat().st_mode)}
