"""The default run directory, where `--out` is not given."""

import pytest

from distillkit.recipe.image_tables import Data
from distillkit.recipe.schema import Recipe, StudentEntry
from distillkit.running.default_directory import next_directory


@pytest.mark.parametrize(
    ("student", "data", "name"),
    [
        ("deit-ti", Data(), "deit-ti-digits-ce-seed0-001"),
        ("deit-ti", Data(train="/images/my flowers/"), "deit-ti-my-flowers-ce-seed0-001"),
        ("timm:resnet18.a1_in1k", Data(unlabeled="loose"), "timm-resnet18.a1_in1k-loose-ce-seed0-001"),
        ("vit-s", Data(train="timm:hfds/cats"), "vit-s-cats-ce-seed0-001"),
    ],
)
def test_it_is_named_after_student_data_loss_and_seed(tmp_path, student, data, name):
    assert next_directory(Recipe(student=StudentEntry(model=student), data=data), tmp_path) == tmp_path / name


def test_the_current_folder_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "flowers").mkdir()
    monkeypatch.chdir(tmp_path / "flowers")
    assert next_directory(Recipe(data=Data(train="."))).as_posix() == "runs/deit-ti-flowers-ce-seed0-001"


def test_the_next_number_is_free(tmp_path):
    for taken in ("002", "019", "old", "x-090"):
        (tmp_path / f"deit-ti-digits-ce-seed0-{taken}").mkdir()
    assert next_directory(Recipe(), tmp_path) == tmp_path / "deit-ti-digits-ce-seed0-020"


def test_losses_and_seed_tell_runs_apart(tmp_path):
    losses = [{"loss": "hard"}, {"loss": "advit-l1"}, {"loss": "hard", "name": "again"}]
    recipe = Recipe.model_validate({"losses": losses, "seed": 7, "teachers": [{"model": "vit-b"}]})
    assert next_directory(recipe, tmp_path).name == "deit-ti-digits-hard-advit-l1-seed7-001"
