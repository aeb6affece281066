"""Runs that start from a finished run (`--from`): higher resolution, other classes, other heads, initial weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch.nn import functional

from distillkit.contracts.model import Signal
from distillkit.errors import ClassSpaceError, RecipeError, WeightsError
from distillkit.models.saved_student import read_student
from distillkit.planning.render import plan_as_dict, plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.running.session import build_session
from distillkit.running.start import plan, resume, run

GEOMETRY = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
HEADS = "head.weight", "head.bias"


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: a ViT with two blocks, trained on a few digits of 2 x 2 patches."""
    student = {"model": "vit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2}
    settings = {"steps": 2, "batch_size": 32, "device": "cpu", "precision": "fp32", "threads": 1}
    recipe = load_recipe(
        "digits",
        **{f"student.{key}": value for key, value in student.items()}
        | {f"training.{key}": value for key, value in settings.items()}
        | {"data.workers": 0, "data.labels": 100, "losses": [{"loss": "ce"}]},
    )
    out = tmp_path_factory.mktemp("former") / "run"
    run(recipe, out, installed_plugins())
    return out


@pytest.fixture(scope="module")
def larger(former: Path) -> Path:
    """The former run, continued at 16 px on labels only: a teacher for that resolution."""
    return continued(former, former.parent / "larger", "student.image_size=16")


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Twelve images of digits in class folders a, b and c."""
    images, labels = load_digits(return_X_y=True)
    for index in range(12):
        folder = tmp_path / "letters" / "abc"[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = images[labels == index % 3][index].reshape(8, 8) * 15.9
        Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(folder / f"{index}.png")
    return tmp_path / "letters"


def continued(former: Path, out: Path, *assignments: str, **overrides: Any) -> Path:
    run(load_recipe(from_run=former, assignments=assignments, **overrides), out, installed_plugins())
    return out


def notes_of(report: str) -> list[str]:
    """The notes of a report and what follows them, without times."""
    rows = report.partition("## Notes")[2].splitlines()
    return [row for row in rows if not row.startswith(("| finished", "| duration", "| time"))]


def written(out: Path) -> Any:
    return json.loads((out / "plan.json").read_text())


def taught(teacher: Path, loss: str) -> dict[str, Any]:
    return {"teachers": [{"model": f"run:{teacher}"}], "losses": [{"loss": loss}]}


def test_outputs_before_training_are_those_of_a_network_resized_by_hand(former: Path) -> None:
    recipe = load_recipe(from_run=former, assignments=["student.image_size=24"])
    student = build_session(plan(recipe, installed_plugins())).task.student.eval()
    weights = load_file(former / "student.safetensors")
    prefix, patches = weights["pos_embed"][:, :1], weights["pos_embed"][:, 1:]
    square = patches.reshape(1, 2, 2, 16).permute(0, 3, 1, 2)  # [1, D, 2, 2]
    resized = functional.interpolate(square, size=(6, 6), mode="bicubic", align_corners=False)  # [1, D, 6, 6]
    weights["pos_embed"] = torch.cat([prefix, resized.permute(0, 2, 3, 1).reshape(1, 36, 16)], dim=1)  # [1, 37, D]
    network = timm.create_model("deit_tiny_patch16_224", img_size=24, num_classes=10, **GEOMETRY).eval()
    network.load_state_dict(weights)
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(student(images, {Signal.LOGITS: ()}).logits, network(images))


@pytest.mark.parametrize("loss", ["hard", "advit-l1"])
def test_the_teacher_keeps_its_input_size(former: Path, tmp_path: Path, loss: str) -> None:
    """A ViT has a fixed input size; the loss resizes its 2 x 2 patches to the student's 4 x 4."""
    out = continued(former, tmp_path / "run", "student.image_size=16", **taught(former, loss))
    facts = written(out)
    assert (facts["student"]["image_size"], facts["student"]["grid"]) == ([16, 16], [4, 4])
    assert (facts["teachers"][0]["sees"], facts["teachers"][0]["grid"]) == ([8, 8], [2, 2])
    assert "the position embedding was resized from 2x2 to 4x4 patches" in facts["notes"]
    assert read_student(out).spec.image_size == (16, 16)


def test_a_teacher_continued_at_the_same_size_has_the_same_patches(former: Path, larger: Path, tmp_path: Path) -> None:
    overrides = taught(larger, "advit-l1") | {"losses": [{"loss": "advit-l1", "interpolation": "none"}]}
    facts = written(continued(former, tmp_path / "run", "student.image_size=16", **overrides))
    assert (facts["teachers"][0]["sees"], facts["teachers"][0]["grid"]) == ([16, 16], [4, 4])


@pytest.mark.parametrize(("size", "pixels"), [("auto", 8), ("native", 8), ("student", 16), ("12", 12)])
def test_a_teacher_without_a_fixed_size_sees_its_own_or_the_chosen_one(
    former: Path, teacher_run: str, size: str, pixels: int
) -> None:
    overrides = {"teachers": [{"model": teacher_run}], "losses": [{"loss": "hard"}]}
    settings = ["student.image_size=16", f"teacher.size={size}"]
    recipe = load_recipe(from_run=former, **overrides, assignments=settings)
    (teacher,) = plan(recipe, installed_plugins()).teachers.values()
    assert (teacher.native.image_size, teacher.input_size) == ((8, 8), (pixels, pixels))


def test_unequal_grids_without_interpolation_are_refused(former: Path) -> None:
    overrides = taught(former, "advit-l1") | {"losses": [{"loss": "advit-l1", "interpolation": "none"}]}
    recipe = load_recipe(from_run=former, **overrides, assignments=["student.image_size=16"])
    with pytest.raises(RecipeError) as caught:
        plan(recipe, installed_plugins())
    assert str(caught.value) == (
        f"loss 'advit-l1': teacher 'run:{former}' has 2 x 2 patches and student 'vit-ti' 4 x 4, but interpolation = "
        '"none" needs equal grids; use "bicubic" or "area", or choose patch and image sizes that give equal grids'
    )


def test_other_classes_get_a_new_head_and_data_labels_is_not_inherited(
    former: Path, letters: Path, tmp_path: Path
) -> None:
    out = continued(
        former, tmp_path / "run", **{"data.train": str(letters), "training.steps": 1, "optimizer.lr": 1e-12}
    )
    before, after = load_file(former / "student.safetensors"), load_file(out / "student.safetensors")
    assert after["head.weight"].shape == (3, 16)
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before.keys() - set(HEADS))
    notes = (
        f"trains on other images than {former}, so data.labels = 100 is not inherited",
        "the head for 10 classes was not loaded; the one for 3 classes is randomly initialised",
    )
    assert set(notes) <= set(written(out)["notes"])
    assert all(note in (out / "report.md").read_text() for note in notes)
    assert read_student(out).spec.class_names == ("a", "b", "c")


def test_a_teacher_of_the_old_classes_is_refused(former: Path, letters: Path) -> None:
    recipe = load_recipe(from_run=former, **taught(former, "hard") | {"data.train": str(letters)})
    with pytest.raises(ClassSpaceError) as caught:
        plan(recipe, installed_plugins())
    assert str(caught.value).startswith(
        f"teacher 'run:{former}' knows 10 classes and data '{letters}' has 3 classes; the teacher does not know "
        "class 'a'; "
    )


def test_attention_is_matched_also_with_other_classes(former: Path, letters: Path) -> None:
    overrides = taught(former, "advit-l1") | {"data.train": str(letters), "data.labels": 6}
    assert plan(load_recipe(from_run=former, **overrides), installed_plugins()).formula == ("1 * labels + 1 * advit-l1")


def test_a_distillation_token_is_added_as_a_copy_of_the_class_token(former: Path) -> None:
    recipe = load_recipe(from_run=former, **taught(former, "hard") | {"student.model": "deit-ti"})
    run_plan = plan(recipe, installed_plugins())
    assert run_plan.notes.count(
        "the distillation token and its position start as copies of the class token's, its head as a copy of the class "
        "head"
    )
    network: Any = build_session(run_plan).task.student.network
    weights = load_file(former / "student.safetensors")
    for copy, source in (
        (network.dist_token, weights["cls_token"]),
        (network.pos_embed[:, 1], weights["pos_embed"][:, 0]),
        (network.head_dist.weight, weights["head.weight"]),
    ):
        assert torch.equal(copy, source)


def test_fixed_positions_are_computed_for_the_new_grid(former: Path) -> None:
    recipe = load_recipe(from_run=former, assignments=["student.image_size=16", "student.position=sincos"])
    assert "pos_embed is not loaded: the student keeps its own" in plan(recipe, installed_plugins()).notes


def test_the_plan_shows_the_initial_weights(former: Path) -> None:
    recipe = load_recipe(from_run=former / "best", assignments=["student.image_size=16"])
    run_plan = plan(recipe, installed_plugins())
    assert ("", f"starts from {former / 'best'}") in plan_lines(run_plan)
    assert plan_as_dict(run_plan)["student"]["starts_from"] == str(former / "best")


def test_weights_that_do_not_fit_are_refused_by_the_plan(former: Path, tmp_path: Path) -> None:
    recipe = load_recipe(from_run=former, assignments=["student.depth=1"])
    with pytest.raises(WeightsError) as caught:
        run(recipe, tmp_path / "out", installed_plugins())
    assert str(caught.value) == (
        f"{former} does not fit 'vit-ti' (deit_tiny_patch16_224): 12 of 20 tensors are unexpected "
        "(blocks.1.attn.proj.bias, blocks.1.attn.proj.weight, blocks.1.attn.qkv.bias, ...); give weights of exactly "
        "this architecture"
    )
    assert not (tmp_path / "out").exists()


def test_a_run_resumes_after_the_run_that_it_started_from_was_deleted(former: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(former, tmp_path / "former")
    out = continued(moved, tmp_path / "run", "student.image_size=16", "training.checkpoint_every=1")
    uninterrupted, report = load_file(out / "student.safetensors"), (out / "report.md").read_text()
    # As if the process had been killed after its first checkpoint.
    for name in ("result.json", "student.safetensors", "student.json", "report.md"):
        (out / name).unlink()
    shutil.rmtree(max((out / "checkpoints").iterdir()))
    shutil.rmtree(moved)
    resume(out, installed_plugins())
    resumed = load_file(out / "student.safetensors")
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)
    assert notes_of((out / "report.md").read_text()) == notes_of(report)
    assert f'weights = "{moved}"' in (out / "recipe.toml").read_text()
