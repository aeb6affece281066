"""Runs on folders with unreadable images: they finish, count each image once, and resume exactly."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from distillkit import DataError
from distillkit.evaluation.evaluate import evaluate
from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import resume, run
from tests import forked
from tests.data.breaking import BREAKERS, as_user, break_some, why_not_as_user

CIFAR10 = os.environ.get("DISTILLKIT_CIFAR10")
SETS = {"train": (200, 20), "val": (60, 7), "test": (60, 7)}
SPLITS = {"train": "train", "val": "validation", "test": "test"}


class StopAt:
    """A KeyboardInterrupt when a step is logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    def distillkit_steps_logged(self, record: Any) -> None:
        if record["step"] >= self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as PNG files, in class folders, in three splits."""
    root = tmp_path_factory.mktemp("digits")
    shades, labels = load_digits(return_X_y=True)
    pixels = np.rint(shades * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    number = 0
    for name, (images, _) in SETS.items():
        for _ in range(images):
            path = root / name / str(labels[number]) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(path)
            number += 1
    return root


@pytest.fixture(scope="module")
def broken(folder: Path) -> dict[tuple[str, str], str]:
    """Breaks some images of `folder`; the kinds of faults by split and key."""
    return {
        (SPLITS[name], key): kind
        for name, (_, count) in SETS.items()
        for key, kind in break_some(folder / name, count).items()
    }


def counts(broken: dict[tuple[str, str], str]) -> dict[str, dict[str, int]]:
    return {
        split: dict(Counter(kind for (broken_split, _), kind in broken.items() if broken_split == split))
        for split in SPLITS.values()
    }


def incidents(directory: Path) -> dict[tuple[str, str], str]:
    entries = json.loads((directory / "incidents.json").read_text())["broken"]
    assert len(entries) == len({(entry["split"], entry["key"]) for entry in entries})
    return {(entry["split"], entry["key"]): entry["kind"] for entry in entries}


def test_a_run_finishes_and_counts_every_unreadable_image_once_in_incidents_and_report(
    recipe_of: Any, folder: Path, broken: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    tables = {"data": {"train": str(folder), "broken": 0.2}, "training": {"batch_size": 50}}
    recipe = recipe_of(tables, {"trackers": ["metrics", "report"]})
    figures = run(recipe, tmp_path / "run", installed_plugins()).figures
    assert incidents(tmp_path / "run") == broken
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["incidents"]["broken"] == counts(broken)
    assert (figures["validation/images"], figures["test/images"]) == (53.0, 53.0)
    report = (tmp_path / "run/report.md").read_text()
    assert "34 images could not be read. Training used other images instead" in report
    for kind in BREAKERS.keys() - {"forbidden"}:
        of_kind = " | ".join(str(counts(broken)[split].get(kind, 0)) for split in ("test", "train", "validation"))
        assert f"| {kind} | {of_kind} |" in report


class Notes:
    """The notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def distillkit_noted(self, note: str) -> None:
        self.notes.append(note)


def test_a_rare_class_without_a_readable_image_is_named_at_the_end_and_in_the_table(
    recipe_of: Any, write_pictures: Any, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        write_pictures(tmp_path / split, {"cat": 30, "dog": 30, "rare": 3})
        for path in (tmp_path / split / "rare").iterdir():
            path.write_bytes(b"")
    training = {"batch_size": 63, "steps": 1}
    data = {"train": str(tmp_path), "validation": 0.0}
    recipe = recipe_of({"data": data, "training": training, "trackers": ["report"]}, {"trackers": ["report"]})
    seen = Notes()
    run(recipe, tmp_path / "run", installed_plugins(), observers=[seen])
    assert seen.notes[-2:] == [
        "train: no image of class 'rare' can be read",
        "test: no image of class 'rare' can be read",
    ]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["incidents"]["lost_classes"] == {"train": ["rare"], "test": ["rare"]}
    report = (tmp_path / "run/report.md").read_text()
    assert "No train image of these classes could be read: rare." in report
    found = evaluate(str(tmp_path / "run"), installed_plugins(), options={"per_class": True}).measurement
    assert [row["class"] for row in found.rows] == ["cat", "dog"]
    assert found.notes == (
        "no row for 'rare', because no image was measured",
        "3 test images cannot be read and are left out: 3 empty",
        "test: no image of class 'rare' can be read",
    )


def test_a_stopped_run_resumes_to_the_same_weights_and_incidents(
    recipe_of: Any, folder: Path, broken: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    """Stopped at step 10, after the checkpoint of step 7, which is inside the second epoch, steps 5 to 8."""
    training = {"batch_size": 50, "checkpoint_every": 7, "log_every": 10, "steps": 14}
    recipe = recipe_of({"data": {"train": str(folder), "broken": 0.2}, "training": training, "augment": {"repeats": 2}})
    run(recipe, tmp_path / "uninterrupted", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(10)])
    resume(tmp_path / "stopped", installed_plugins())
    uninterrupted, stopped = (
        load_file(tmp_path / name / "student.safetensors") for name in ("uninterrupted", "stopped")
    )
    assert [name for name in uninterrupted if not torch.equal(uninterrupted[name], stopped[name])] == []
    first, second = ((tmp_path / name / "incidents.json").read_text() for name in ("uninterrupted", "stopped"))
    assert first == second
    assert incidents(tmp_path / "stopped").items() <= broken.items()


def test_with_data_broken_0_a_run_fails_at_the_first_unreadable_image_and_leaves_nothing(
    recipe_of: Any, folder: Path, broken: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    recipe = recipe_of({"data": {"train": str(folder), "broken": 0.0}})
    with pytest.raises(DataError) as caught:
        run(recipe, tmp_path / "run", installed_plugins())
    named = str(caught.value).split("'")[1]
    assert ("train", named) in broken
    assert str(caught.value).startswith(f"image '{named}' of '{folder}/train' cannot be read: ")
    assert not (tmp_path / "run").exists()


def run_in_two_processes(out: Path, recipe: Any, tmp_path: Path) -> None:
    import tomli_w

    values = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(values))
    command = ["run", "--recipe", str(tmp_path / "recipe.toml"), "--out", str(out), "--nproc", "2"]
    done = forked.run(["-m", "distillkit_cli", *command], timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_two_processes_count_like_one_also_if_one_has_no_readable_test_image(
    recipe_of: Any, folder: Path, broken: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    """The second process evaluates images 1, 3, 5, ... of a split; of the test images all of these are unreadable."""
    half = tmp_path / "half"
    for place, path in enumerate(sorted((folder / "val").rglob("*.png"))):
        copy = half / path.relative_to(folder / "val")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"" if place % 2 else (folder / "train/0/0000.png").read_bytes())
    keys = sorted(path.relative_to(half).as_posix() for path in half.rglob("*.png"))
    data = {"train": str(folder / "train"), "validation": str(folder / "val"), "test": str(half), "broken": 0.9}
    training = {"batch_size": 50, "steps": 8, "precision": "fp32", "device": "cpu"}
    recipe = recipe_of({"data": data, "training": training, "trackers": ["metrics", "report"]})
    alone = run(recipe, tmp_path / "alone", installed_plugins()).figures
    run_in_two_processes(tmp_path / "pair", recipe, tmp_path)
    expected = {place: kind for place, kind in broken.items() if place[0] != "test"}
    expected |= {("test", key): "empty" for key in keys[1::2]}
    assert incidents(tmp_path / "pair") == incidents(tmp_path / "alone") == expected
    together = json.loads((tmp_path / "pair/result.json").read_text())["figures"]
    assert together.keys() == alone.keys()
    assert together["test/images"] == alone["test/images"] == 30.0


def check_and_run(folder: Path, out: Path, *, batch_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output of `data check` for a folder, and the result of a run on it, both as a user without root's rights."""
    student = ("image_size=32", "patch=8", "width=48", "heads=3", "depth=2")
    settings = [part for value in student for part in ("--set", f"student.{value}")]
    settings += ["--set", "data.workers=1", "--set", f"training.batch_size={batch_size}", "--epochs", "1"]
    settings += ["--device", "cpu", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    checked = as_user(["-m", "distillkit_cli", "data", "check", str(folder), "--json"], env=environment)
    ran = as_user(["-m", "distillkit_cli", "run", "--data", str(folder), *settings], env=environment)
    assert (checked.returncode, checked.stderr) == (1, "")
    assert ran.returncode == 0, ran.stderr
    for alarm in ("Traceback", "Warning", "warn("):
        assert alarm not in ran.stderr
    return json.loads(checked.stdout), json.loads((out / "result.json").read_text())


def assert_check_and_run_count_all(folder: Path, tmp_path: Path, *, batch_size: int) -> None:
    """Break 5 % of the images of each split in all eight ways; `data check` and the report of a run must count them.

    `batch_size` divides the number of training images, so that one epoch reads every image.
    """
    planted = {
        name: break_some(folder / name, len(list((folder / name).rglob("*.png"))) // 20, kinds=tuple(BREAKERS))
        for name in ("train", "test")
    }
    checked, result = check_and_run(folder, tmp_path / "run", batch_size=batch_size)
    expected = {name: dict(Counter(found.values())) for name, found in planted.items()}
    assert set(expected["train"]) == set(BREAKERS)
    assert checked["kinds"] == expected
    # The run holds its validation images out of train.
    counted = result["incidents"]["broken"]
    of_train = Counter(counted["train"]) + Counter(counted.get("validation", {}))
    assert {"train": dict(of_train), "test": counted["test"]} == expected
    report = (tmp_path / "run/report.md").read_text()
    for kind in BREAKERS:
        assert f"| {kind} | {' | '.join(str(counted[split].get(kind, 0)) for split in sorted(counted))} |" in report
    found_in_run = {
        (split if split == "test" else "train", key): kind for (split, key), kind in incidents(tmp_path / "run").items()
    }
    assert found_in_run == {(name, key): kind for name, found in planted.items() for key, kind in found.items()}


needs_a_user = pytest.mark.skipif(
    why_not_as_user() is not None, reason=f"cannot drop root's rights: {why_not_as_user()}"
)


@needs_a_user
def test_check_and_report_count_five_percent_broken_digits_of_eight_kinds(
    tmp_path: Path,
) -> None:
    shades, labels = load_digits(return_X_y=True)
    pixels = np.rint(shades * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    for number in range(640):
        path = tmp_path / "data" / ("test" if number % 2 else "train") / str(labels[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)
    assert_check_and_run_count_all(tmp_path / "data", tmp_path, batch_size=48)


@needs_a_user
@pytest.mark.slow
@pytest.mark.skipif(
    CIFAR10 is None, reason="DISTILLKIT_CIFAR10 names no folder with CIFAR-10 as train/ and test/ of PNG files"
)
def test_check_and_report_count_five_percent_broken_cifar10_images_of_eight_kinds(tmp_path: Path) -> None:
    """On 500 training and 100 test images per class."""
    for name, count in (("train", 500), ("test", 100)):
        for group in sorted((Path(CIFAR10 or "") / name).iterdir()):
            (tmp_path / "cifar" / name / group.name).mkdir(parents=True)
            for path in sorted(group.glob("*.png"))[:count]:
                (tmp_path / "cifar" / name / group.name / path.name).write_bytes(path.read_bytes())
    assert_check_and_run_count_all(tmp_path / "cifar", tmp_path, batch_size=50)
