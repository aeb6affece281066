"""The default run directory, where `--out` is not given."""

import pytest

from distillkit.recipe.schema import Data, Recipe, StudentEntry
from distillkit.running.default_directory import next_directory


@pytest.mark.parametrize(
    ("student", "data", "name"),
    [
        ("deit-ti", Data(), "deit-ti-digits-001"),
        ("deit-ti", Data(train="/images/my flowers/"), "deit-ti-my-flowers-001"),
        ("timm:resnet18.a1_in1k", Data(unlabeled="loose"), "timm-resnet18.a1_in1k-loose-001"),
        ("vit-s", Data(train="timm:hfds/cats"), "vit-s-cats-001"),
    ],
)
def test_it_is_named_after_student_and_data(tmp_path, student, data, name):
    assert next_directory(Recipe(student=StudentEntry(model=student), data=data), tmp_path) == tmp_path / name


def test_the_current_folder_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "flowers").mkdir()
    monkeypatch.chdir(tmp_path / "flowers")
    assert next_directory(Recipe(data=Data(train="."))).as_posix() == "runs/deit-ti-flowers-001"


def test_the_next_number_is_free(tmp_path):
    for taken in ("deit-ti-digits-002", "deit-ti-digits-019", "deit-ti-digits-old", "deit-ti-digits-x-090"):
        (tmp_path / taken).mkdir()
    assert next_directory(Recipe(), tmp_path) == tmp_path / "deit-ti-digits-020"
