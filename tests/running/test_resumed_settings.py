"""Settings that change when a run is resumed: allowed, refused, recorded."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillkit import api
from distillkit.errors import RunDirectoryError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit.running.resumed_settings import changed_settings, check_resumable, fixed_settings, note_of_change
from distillkit.running.start import run

PLUGINS = installed_plugins()
ALLOWED = (
    "data.broken, data.cache_mb, data.finish, data.workers, training.device, training.keep, training.log_every, "
    "training.micro_batch_size, training.patience, training.threads"
)


class StopAt:
    """A KeyboardInterrupt when a step is logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    def distillkit_steps_logged(self, record: Mapping[str, float]) -> None:
        if record["step"] >= self.step:
            raise KeyboardInterrupt


@pytest.fixture
def stopped(recipe_of: Any, tmp_path: Path) -> Path:
    """A run of 8 steps that was stopped after the checkpoint of step 3."""
    recipe = recipe_of(
        {"training": {"steps": 8, "checkpoint_every": 3, "log_every": 5}, "trackers": ["metrics", "report"]}
    )
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", PLUGINS, observers=[StopAt(5)])
    return tmp_path / "stopped"


def finished(recipe_of: Any, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The weights of the same run without a stop."""
    recipe = recipe_of({"training": {"steps": 8, "checkpoint_every": 3, "log_every": 5}})
    run(recipe, tmp_path / "uninterrupted", PLUGINS)
    return load_file(tmp_path / "uninterrupted" / "student.safetensors")


def test_settings_that_change_no_weight(stopped: Path, recipe_of: Any, tmp_path: Path) -> None:
    api.resume(
        stopped, assignments=["data.workers=1", "training.keep=1", "training.log_every=2"], training={"patience": 5}
    )
    uninterrupted, resumed = finished(recipe_of, tmp_path), load_file(stopped / "student.safetensors")
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-00000008"]
    note = (
        "resumed after step 3 with data.workers = 1 instead of 0, training.keep = 1 instead of 2, training.log_every = "
        "2 instead of 5, training.patience = 5.0 instead of 30.0"
    )
    assert note in (stopped / "report.md").read_text()
    plan = json.loads((stopped / "plan.json").read_text())
    assert [entry["step"] for entry in plan["resumed"]] == [3]
    assert plan["resumed"][0]["changed"]["data.workers"] == {"before": 0, "now": 1}
    assert note not in plan["notes"]
    assert load_recipe(str(stopped / "recipe.toml")).data.workers == 1


def test_settings_that_change_the_result_a_little_and_are_reset_later(
    stopped: Path, recipe_of: Any, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        api.resume(stopped, training={"micro_batch_size": 16, "threads": 1}, device="cpu", observers=[StopAt(5)])
    api.resume(stopped, assignments=["training.micro_batch_size="])
    uninterrupted, resumed = finished(recipe_of, tmp_path), load_file(stopped / "student.safetensors")
    for name, tensor in uninterrupted.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-4)
    report = (stopped / "report.md").read_text()
    bits = ": same batches, but not bit-equal to an uninterrupted run"
    first = "training.micro_batch_size = 16 instead of the default, training.threads = 1 instead of the default"
    assert f"resumed after step 3 with {first}{bits}" in report
    assert f"resumed after step 3 with the default training.micro_batch_size instead of 16{bits}" in report
    assert "micro_batch_size" not in tomllib.loads((stopped / "recipe.toml").read_text())["training"]


@pytest.mark.parametrize(
    ("options", "keys", "typed"),
    [
        ({"assignments": ["optimizer.lr=0.5", "data.workers=1"]}, "optimizer.lr", "--set optimizer.lr=0.5"),
        ({"labels": 60, "seed": 4}, "data.labels, seed", "--set data.labels=60 --set seed=4"),
        ({"student": "vit-ti"}, "student.model", "--set student.model=vit-ti"),
    ],
)
def test_other_settings_name_the_command_for_a_new_run(stopped: Path, options: Any, keys: str, typed: str) -> None:
    before = (stopped / "recipe.toml").read_text()
    with pytest.raises(RunDirectoryError) as caught:
        api.resume(stopped, **options)
    source = stopped / "checkpoints" / "step-00000003"
    assert str(caught.value) == (
        f"{keys} cannot change when a run is resumed, only {ALLOWED} can; resume without it, or start a new run: "
        f"distillkit run --from {source} {typed}"
    )
    assert (stopped / "recipe.toml").read_text() == before


def test_the_command_for_a_new_run_works(stopped: Path, tmp_path: Path) -> None:
    source = stopped / "checkpoints" / "step-00000003"
    result = api.run(from_run=source, out=tmp_path / "new", assignments=["optimizer.lr=0.5", "training.steps=1"])
    assert result.steps == 1
    assert json.loads((tmp_path / "new" / "plan.json").read_text())["student"]["starts_from"] == str(source)


MIXED = {"mixing": {"mode": "batch", "mixup": 0.8}}


@pytest.mark.parametrize(
    ("tables", "fixed"),
    [
        (MIXED, ["training.micro_batch_size"]),
        ({"mixing": {"mode": "batch"}}, []),
        ({"mixing": {**MIXED["mixing"], "probability": 0.0}}, []),
        ({"mixing": {"mode": "pair", "mixup": 0.8}}, []),
    ],
)
def test_the_micro_batch_of_mixed_batches_is_fixed(tables: Any, fixed: list[str]) -> None:
    recipe = Recipe.model_validate(tables)
    changed = changed_settings(recipe, load_recipe(recipe, training={"micro_batch_size": 4, "keep": 3}))
    assert fixed_settings(changed, recipe) == fixed


def test_the_refusal_of_a_micro_batch_size_says_why() -> None:
    recipe = Recipe.model_validate(MIXED)
    changed = changed_settings(recipe, load_recipe(recipe, training={"micro_batch_size": 4}))
    with pytest.raises(RunDirectoryError) as caught:
        check_resumable(changed, recipe, source=None)
    assert str(caught.value) == (
        'training.micro_batch_size cannot change in a run with mixing.mode = "batch", which mixes micro-batches; '
        "resume without it, or start again with another --out"
    )


def test_the_same_settings_are_no_change(stopped: Path) -> None:
    recipe = load_recipe(str(stopped / "recipe.toml"))
    assert RunDirectory(stopped).changed_settings(recipe) == {}
    assert changed_settings(recipe, load_recipe(recipe, assignments=["data.workers=0"])) == {}


def test_auto_resume_applies_the_settings_of_the_command(stopped: Path) -> None:
    recipe = load_recipe(str(stopped / "recipe.toml"))
    given = load_recipe(recipe, training={"keep": 4}, about={"notes": ["a note of a newer version"]})
    assert RunDirectory(stopped).changed_settings(given) == {"training.keep": (2, 4)}
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory(stopped).changed_settings(load_recipe(given, seed=9))
    assert str(caught.value) == (
        f"{stopped} was started with another recipe (different: seed); give the same options, or another --out"
    )


def test_the_note_names_values() -> None:
    assert note_of_change(1200, {"training.device": ("auto", "cuda:1")}) == (
        'resumed after step 1,200 with training.device = "cuda:1" instead of "auto": same batches, but not '
        "bit-equal to an uninterrupted run"
    )
