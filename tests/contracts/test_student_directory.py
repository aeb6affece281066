"""Directories of a run that hold a student, and their names."""

from pathlib import Path

import pytest

from distillkit.contracts.student_directory import (
    holds_student,
    is_checkpoint,
    run_of,
    student_directory,
    student_name,
    student_names,
)
from distillkit.errors import RunDirectoryError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with a best student and two checkpoints."""
    folder = tmp_path / "run"
    files = ("recipe.toml", "student.json", "best/student.json")
    for name in (*files, *(f"checkpoints/step-{step:08d}/task.safetensors" for step in (20, 100))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def refusal(target: Path, checkpoint: str | int) -> str:
    with pytest.raises(RunDirectoryError) as caught:
        student_directory(target, checkpoint)
    return str(caught.value)


@pytest.mark.parametrize(
    ("checkpoint", "directory", "name"),
    [
        (None, ".", "last"),
        ("last", ".", "last"),
        ("best", "best", "best"),
        (20, "checkpoints/step-00000020", "20"),
        ("100", "checkpoints/step-00000100", "100"),
        ("step-00000100", "checkpoints/step-00000100", "100"),
    ],
)
def test_every_student_has_a_name(run: Path, checkpoint: str | int | None, directory: str, name: str) -> None:
    found = student_directory(run, checkpoint)
    assert found == run / directory
    assert (student_name(found), holds_student(found), run_of(found)) == (name, True, run)
    assert is_checkpoint(found) == ("checkpoints" in directory)
    # The directory of that student is accepted as it is.
    assert student_directory(found, checkpoint) == found


def test_relative_directories(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "best")
    assert student_name(Path()) == "best"
    monkeypatch.chdir(run)
    assert student_directory(Path(), "best") == Path("best")
    monkeypatch.chdir(run / "checkpoints" / "step-00000020")
    assert (student_name(Path()), holds_student(Path())) == ("20", True)


def test_a_student_that_the_run_does_not_have(run: Path) -> None:
    sentence = f"run '{run}' has no student '{{}}'; --checkpoint can be: last, best, 20, 100"
    assert [refusal(run, name) for name in ("ema", 7)] == [sentence.format("ema"), sentence.format("7")]
    (run / "student.json").unlink()
    assert student_names(run) == ("best", "20", "100")


def test_targets_that_are_not_a_run(run: Path, tmp_path: Path) -> None:
    for target in (tmp_path, Path("timm:resnet18"), run / "best"):
        assert (
            refusal(target, "ema") == f"--checkpoint ema needs a run directory, and '{target}' is not one; leave it out"
        )
    assert (student_names(tmp_path), run_of(tmp_path), student_name(tmp_path)) == ((), None, None)
