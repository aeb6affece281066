"""The run directory: its files, no overwriting, no partial runs, locking."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from distillkit.errors import DataError, DistillkitError, RunDirectoryError, SignalError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import dump
from distillkit.running.directory import RunDirectory
from distillkit.running.start import resume, run

REPORT = {"trackers": ["metrics", "report"]}


def test_a_finished_run_has_all_files(recipe_of: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(recipe_of({"training": {"steps": 20, "ema": 0.9}}, REPORT), out, installed_plugins())
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == [
        *(f"attention/validation-{number}.png" for number in (1, 2, 3)),
        "best/student.json",
        "best/student.safetensors",
        "checkpoints/step-00000018/ema.safetensors",
        "checkpoints/step-00000018/manifest.json",
        "checkpoints/step-00000018/optimizer.safetensors",
        "checkpoints/step-00000018/state.json",
        "checkpoints/step-00000018/task.safetensors",
        "checkpoints/step-00000020/ema.safetensors",
        "checkpoints/step-00000020/manifest.json",
        "checkpoints/step-00000020/optimizer.safetensors",
        "checkpoints/step-00000020/state.json",
        "checkpoints/step-00000020/task.safetensors",
        "curves.png",
        "ema/student.json",
        "ema/student.safetensors",
        "environment.json",
        "metrics.jsonl",
        "plan.json",
        "recipe.toml",
        "report.html",
        "report.md",
        "result.json",
        "started_in.json",
        "student.json",
        "student.safetensors",
    ]
    figures = json.loads((out / "result.json").read_text())["figures"]
    assert figures == dict(result.figures)
    assert {"validation/class_top1", "test/top1", "test/ema/top1", "best/validation_top1"} <= figures.keys()
    report = (out / "report.md").read_text()
    assert "![loss and accuracy over the run](curves.png)" in report
    assert "no loss term trains the distillation head, so predictions use the class head only" in report


def test_one_set_of_plugins_serves_several_runs(recipe_of: Any, tmp_path: Path) -> None:
    plugins = installed_plugins()
    for name in ("one", "two"):
        run(recipe_of({"training": {"steps": 1}}, REPORT), tmp_path / name, plugins)
        assert (tmp_path / name / "report.md").is_file()
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["steps", "epoch", "end"]


def test_an_existing_directory_is_not_overwritten(recipe_of: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError) as caught:
        run(recipe_of(), tmp_path, installed_plugins())
    assert str(caught.value) == f"{tmp_path} exists and is not empty; delete it or give another --out"
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(RunDirectoryError) as caught:
        run(recipe_of(), tmp_path, installed_plugins())
    assert str(caught.value) == (
        f"{tmp_path} exists and is not empty; continue it with --resume {tmp_path} or give another --out"
    )


def test_a_file_is_not_a_directory(recipe_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(RunDirectoryError) as caught:
        run(recipe_of(), path, installed_plugins())
    assert str(caught.value) == f"{path} is a file; give another --out"


def test_a_run_that_fails_while_building_leaves_nothing(recipe_of: Any, tmp_path: Path) -> None:
    bad = recipe_of(
        {"teachers": [{"model": "timm:resnet10t", "weights": str(tmp_path / "no")}]}, {"losses": [{"loss": "hard"}]}
    )
    with pytest.raises(DistillkitError):
        run(bad, tmp_path / "out", installed_plugins())
    assert not (tmp_path / "out").exists()
    assert issubclass(SignalError, DistillkitError)


def test_an_unreadable_image_before_the_first_checkpoint_leaves_nothing(recipe_of: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("ant", "bee"):
        (data / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8)).save(data / name / f"{number}.png")
    (data / "bee" / "0.png").write_bytes(b"not an image")
    recipe = recipe_of({"data": {"train": str(data), "validation": 0.0}}, {"training": {"batch_size": 8}})
    with pytest.raises(DataError) as caught:
        run(recipe, tmp_path / "out", installed_plugins())
    assert str(data / "bee" / "0.png") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_only_a_run_directory_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        resume(tmp_path, installed_plugins())
    assert str(caught.value) == f"'{tmp_path}' is not a run directory: it has no recipe.toml; check the path"
    with pytest.raises(RunDirectoryError) as missing:
        resume(tmp_path / "none", installed_plugins())
    assert str(missing.value) == f"there is no run directory '{tmp_path / 'none'}'; check the path"


def test_a_finished_run_is_not_resumed(recipe_of: Any, tmp_path: Path) -> None:
    run(recipe_of({"training": {"steps": 1}}), tmp_path / "run", installed_plugins())
    with pytest.raises(RunDirectoryError) as caught:
        resume(tmp_path / "run", installed_plugins())
    assert str(caught.value) == (
        f"{tmp_path / 'run'} is finished; evaluate or export it, or start a new run with more epochs"
    )


def test_two_processes_do_not_train_in_one_directory(tmp_path: Path) -> None:
    hold = f"""
from pathlib import Path
from distillkit.running.directory import RunDirectory
with RunDirectory(Path({str(tmp_path)!r})).locked():
    print("held", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunDirectoryError) as caught, RunDirectory(tmp_path).locked():
            pass
        assert str(caught.value) == (
            f"process {other.pid} is already training in {tmp_path}; wait until it ends, or give another --out"
        )
        other.kill()
    with RunDirectory(tmp_path).locked():
        pass


def test_a_directory_with_only_a_partial_recipe_is_free(tmp_path: Path) -> None:
    """A process was killed while it wrote the recipe, its first file."""
    (tmp_path / ".recipe.toml.tmp").write_text("ha")
    RunDirectory(tmp_path).check_free()


def test_a_run_that_another_process_started_meanwhile_is_not_deleted(
    recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes start at once: the other one locks the directory after this one found it free."""
    out = tmp_path / "run"

    @contextmanager
    def locked_by_another(directory: RunDirectory) -> Iterator[None]:
        directory.recipe.write_text("theirs")
        raise RunDirectoryError("locked")
        yield

    monkeypatch.setattr(RunDirectory, "locked", locked_by_another)
    with pytest.raises(RunDirectoryError):
        run(recipe_of({"training": {"steps": 1}}), out, installed_plugins())
    assert (out / "recipe.toml").read_text() == "theirs"


def test_a_run_of_an_earlier_version_is_resumed_by_the_command_that_started_it(recipe_of: Any, tmp_path: Path) -> None:
    text = dump(recipe_of())
    (tmp_path / "recipe.toml").write_text(text.replace('orientation = "exif"\n', ""))
    directory = RunDirectory(tmp_path)
    directory.changed_settings(recipe_of())
    assert directory.read_recipe().augment.orientation == "stored"
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"\(different: augment.orientation\)"):
        directory.changed_settings(recipe_of({"augment": {"orientation": "stored"}}))


def test_a_disk_without_room_for_a_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=200_000))
    directory = RunDirectory(tmp_path / "missing/run")
    directory.check_space(200_000)
    with pytest.raises(RunDirectoryError) as refused:
        directory.check_space(1_640_000)
    assert str(refused.value) == (
        f"cannot write to {tmp_path / 'missing/run'} (a checkpoint needs at least 1.6 MB, and 200.0 kB are free); free "
        "some space, or give another --out"
    )
    assert list(tmp_path.iterdir()) == []
