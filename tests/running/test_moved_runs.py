"""Runs that are moved, or used from another folder: they find their data, teacher and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.errors import RecipeError, RunInterrupted
from distillkit.evaluation.evaluate import evaluate
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.running.start import plan, resume, run
from distillkit.storage.atomic import sha256

PLUGINS = installed_plugins()
STUDENT = {"model": "small-cnn", "image_size": 8, "width": 4}
TRAINING = {"steps": 2, "batch_size": 4, "device": "cpu", "precision": "fp32", "checkpoint_every": 1}
TABLES: dict[str, Any] = {
    "data": {"train": "pets", "validation": 0.0, "workers": 0},
    "augment": {"crop": "none", "eval_crop": 1.0},
    "student": STUDENT,
    "training": TRAINING,
    "trackers": [],
}
TAUGHT = TABLES | {
    "teachers": [{"model": "run:runs/teacher"}],
    "losses": [{"loss": "soft"}],
    "student": STUDENT | {"weights": "runs/teacher"},
}


class Stop:
    """Stops a run after its first step."""

    def distillkit_steps_logged(self, record: Any) -> None:
        import signal

        if record["step"] == 1:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def project(tmp_path: Path, write_pictures: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and two finished runs, the second taught by the first, all named by relative paths."""
    home = tmp_path / "project"
    for split in ("train", "test"):
        write_pictures(home / "pets" / split, {"cat": 4, "dog": 4})
    monkeypatch.chdir(home)
    run(Recipe.model_validate(TABLES), Path("runs/teacher"), PLUGINS)
    run(Recipe.model_validate(TAUGHT), Path("runs/student"), PLUGINS)
    (tmp_path / "elsewhere").mkdir()
    return home


def refused(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def test_paths_stay_as_they_were_typed_in_the_same_folder(project: Path) -> None:
    started_in = json.loads(Path("runs/student/started_in.json").read_text())
    assert started_in == {"relative": "../..", "absolute": str(project)}
    recipe = load_recipe("runs/student/recipe.toml")
    assert recipe == Recipe.model_validate(TAUGHT)
    assert load_recipe(from_run="runs/student").data.train == "pets"


@pytest.mark.parametrize("moved", ["nothing", "project", "run"])
def test_a_moved_run_is_evaluated_and_continued_from_elsewhere(
    project: Path, moved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = student = project / "runs/student"
    if moved == "project":
        project.rename(project.with_name("renamed"))
        home = student = project.with_name("renamed") / "runs/student"
    if moved == "run":
        student = project.parent / "archive"
        home.rename(student)
    monkeypatch.chdir(project.parent / "elsewhere")
    assert evaluate(str(student), PLUGINS).measurement.figures["images"] == 8.0
    recipe = load_recipe(from_run=student, training={"steps": 1})
    root = "renamed" if moved == "project" else "project"
    assert recipe.data.train == f"../{root}/pets"
    assert recipe.teachers[0].model == f"run:../{root}/runs/teacher"
    assert plan(recipe, PLUGINS).teachers.keys() == {"run:runs/teacher"}
    run(recipe, Path("next"), PLUGINS)
    # The inherited paths are relative too.
    monkeypatch.chdir(project.parent)
    assert load_recipe("elsewhere/next/recipe.toml").data.train == f"{root}/pets"


def test_a_stopped_run_is_resumed_from_elsewhere_to_the_same_weights(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(TAUGHT | {"student": STUDENT, "training": TRAINING | {"log_every": 1}})
    run(recipe, Path("runs/whole"), PLUGINS)
    with pytest.raises(RunInterrupted):
        run(recipe, Path("runs/stopped"), PLUGINS, observers=[Stop()])
    monkeypatch.chdir(project.parent / "elsewhere")
    resume(project / "runs/stopped", PLUGINS)
    one, other = (sha256(project / "runs" / name / "student.safetensors") for name in ("whole", "stopped"))
    assert one == other


def test_what_is_missing_is_named_with_the_key_that_replaces_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "runs/teacher").rename(project / "runs/professor")
    (project / "pets").rename(project / "animals")
    monkeypatch.chdir(project.parent / "elsewhere")
    student = project / "runs/student"
    not_found = f"which is not found here or in '{project}', where it started; put it back, or"
    assert refused(evaluate, str(student), PLUGINS) == (
        f"data.train: run {student} uses 'pets', {not_found} give --data"
    )
    assert evaluate(str(student), PLUGINS, data=str(project / "animals")).measurement.figures["images"] == 8.0
    assert refused(load_recipe, from_run=student) == (
        f"data.train: run {student} uses 'pets', {not_found} give --set data.train=PATH"
    )
    data = {"assignments": [f"data.train={project}/animals"]}
    assert refused(load_recipe, from_run=student, **data) == (
        f"teacher.model: run {student} uses 'runs/teacher', {not_found} give --set teacher.model=run:DIR"
    )
    data["assignments"].append(f"teacher.model=run:{project}/runs/professor")
    assert plan(load_recipe(from_run=student, **data), PLUGINS).steps == 2
    (student / "result.json").unlink()
    recipe = student / "recipe.toml"
    assert refused(resume, student, PLUGINS) == (
        f"data.train: run {student} uses 'pets', {not_found} change data.train in {recipe}"
    )
    text = recipe.read_text().replace('"pets"', '"animals"').replace('"run:runs/teacher"', '"run:runs/professor"', 1)
    recipe.write_text(text)
    assert resume(student, PLUGINS).steps == 2


def test_a_run_of_an_earlier_version_keeps_its_paths(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/student/started_in.json").unlink()
    monkeypatch.chdir(project.parent / "elsewhere")
    assert load_recipe(from_run=project / "runs/student").data.train == "pets"


@pytest.mark.parametrize("text", ["", "{}", '{"relative": 1, "absolute": "/"}', "[" * 9999])
def test_a_damaged_record_is_named(project: Path, text: str) -> None:
    Path("runs/student/started_in.json").write_text(text)
    assert refused(load_recipe, from_run="runs/student") == (
        "runs/student/started_in.json is damaged or cannot be read; restore it, or delete it to use the paths in "
        "recipe.toml from the current folder"
    )
