"""`replay` and `--auto-resume` on a run of a third party: nothing in it is executed or imported."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillkit.errors import CheckpointError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import dump
from distillkit.running.replay import replay
from distillkit.running.start import resume, run
from distillkit_cli.main import command_line

PLANTED = ("numpy", "torch", "digits", "plan", "conftest", "sitecustomize", "distillkit_evil")
STARTS = ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pickle.find_class", "subprocess.Popen")

_events: list[tuple[str, tuple[object, ...]]] = []
_recording = [False]


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _recording[0] and event in {"import", *STARTS}:
        _events.append((event, arguments))


@pytest.fixture(scope="module", autouse=True)
def _hooked():
    sys.addaudithook(_record)  # cannot be removed


@pytest.fixture
def recorded():
    """Programs that were started, classes that were unpickled, and the files of modules that were imported."""
    _events.clear()
    _recording[0] = True
    yield lambda: _events
    _recording[0] = False


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, recipe_module):
    """A run of 4 steps without its end: it resumes from step 2."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    run(recipe_module, out, installed_plugins())
    (out / "result.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-00000004")
    return out


@pytest.fixture(scope="module")
def recipe_module():
    from distillkit.recipe.schema import Recipe

    return Recipe.model_validate(
        {
            "data": {"train": "digits", "workers": 0},
            "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
            "training": {"steps": 4, "batch_size": 16, "checkpoint_every": 2, "device": "cpu", "threads": 1},
            "trackers": ["metrics"],
        }
    )


def sealed(step: Path, name: str) -> None:
    """Make the manifest of a checkpoint fit a changed file."""
    content, manifest = (step / name).read_bytes(), json.loads((step / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (step / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def third_party(stopped, tmp_path):
    """A copy of the run with code under many names in it, a plugin of the current folder, and a saved step."""
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    step = Path(shutil.copytree(out / "checkpoints" / "step-00000002", out / "incidents" / "step-00000002"))
    for folder in (out, out / "checkpoints", step, out / "best"):
        for name in PLANTED:
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(99)\n")
    metadata = out / "distillkit_evil-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: distillkit-evil\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[distillkit]\nevil = distillkit_evil\n")
    for name in ("hook.pth", "weights.pkl", "state.pt"):
        (out / name).write_bytes(b"import distillkit_evil\n")
    images = torch.full((2, 3, 8, 8), math.nan)
    save_file(
        {"0.images": images, "0.label_mass": torch.ones(2), "0.labels": torch.ones(2, 10) / 10},
        step / "rank-0000.safetensors",
    )
    state = json.loads((step / "state.json").read_text())
    batch = {"keys": ["\x1b[2J", "b"], "indices": [0, None], "terms": {"labels": "nan"}}
    state["state"]["incident"] = {
        "epoch": 1,
        "reason": "the loss is not finite",
        "terms": ["labels"],
        "in_a_row": 1,
        "samples": 2,
        "labelled": 2,
        "precision": "float32",
        "environment": {},
        "micro_batches": [[batch]],
    }
    (step / "state.json").write_text(json.dumps(state))
    sealed(step, "state.json")
    sealed(step, "rank-0000.safetensors")
    return out


def ran_or_imported(events, out: Path) -> list[object]:
    """What a run of a third party must not cause."""
    files = [arguments[1] for event, arguments in events if event == "import"]
    return [event for event in events if event[0] != "import"] + [
        file for file in files if file and Path(str(file)).is_relative_to(out)
    ]


def test_auto_resume_executes_and_imports_nothing_of_the_run(third_party, tmp_path, recorded, monkeypatch, capsys):
    """Promise: nothing in a run directory is executed or imported.

    Attempt: `run --auto-resume` in a run that contains modules, the metadata of a plugin and a .pth file.
    """
    (tmp_path / "recipe.toml").write_text((third_party / "recipe.toml").read_text())
    monkeypatch.chdir(third_party)
    assert command_line(["run", "--recipe", str(tmp_path / "recipe.toml"), "--auto-resume", "--out", "."]) == 0
    assert ran_or_imported(recorded(), third_party) == []
    assert not (tmp_path / "ran").exists()
    assert (third_party / "result.json").is_file()
    assert "distillkit-evil" not in capsys.readouterr().out


def test_replay_executes_and_imports_nothing_of_the_run(third_party, tmp_path, recorded, monkeypatch, capsys):
    """Promise: nothing in a run directory is executed or imported.

    Attempt: `replay .` in a run that contains modules, the metadata of a plugin and a .pth file.
    """
    monkeypatch.chdir(third_party)
    assert command_line(["replay", "."]) == 0
    assert ran_or_imported(recorded(), third_party) == []
    assert not (tmp_path / "ran").exists()
    shown = capsys.readouterr().out
    assert r"\x1b[2J" in shown
    assert "\x1b" not in shown


def test_replay_unpickles_nothing(third_party, tmp_path, recorded):
    """Promise: nothing in a run directory is executed or imported.

    Attempt: `replay` on a saved step whose batch is a pickle, with its digest in the manifest.
    """

    class Command:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    step = third_party / "incidents" / "step-00000002"
    (step / "rank-0000.safetensors").write_bytes(pickle.dumps(Command()))
    sealed(step, "rank-0000.safetensors")
    with pytest.raises(CheckpointError):
        replay(third_party, installed_plugins())
    assert ran_or_imported(recorded(), third_party) == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"0.images": torch.zeros(2, 3, 9, 9)},
            "its images are 3x9x9, those of the run 3x8x8",
        ),
        ({"0.labels": torch.ones(2, 11)}, "its labels have 11 classes, the run 10"),
        (
            {"0.images": torch.zeros(3, 3, 8, 8)},
            "its saved step is missing or invalid (0.images of 2 images is 3x3x8x8 torch.float32)",
        ),
        (
            {"0.images": torch.zeros(2, 3, 8, 8, dtype=torch.complex64)},
            "its saved step is missing or invalid (0.images of 2 images is 2x3x8x8 torch.complex64)",
        ),
        (
            {"0.label_mass": torch.ones(())},
            "its saved step is missing or invalid (0.label_mass of 2 images is scalar torch.float32)",
        ),
    ],
)
def test_a_saved_step_of_another_run_is_an_error_of_its_file(third_party, changed, why):
    """Promise: a file with wrong content is an error of one sentence that names the file.

    Attempt: `replay` on a step whose images and labels do not belong to the student of the run.
    """
    step = third_party / "incidents" / "step-00000002"
    tensors = load_file(step / "rank-0000.safetensors") | changed
    save_file(tensors, step / "rank-0000.safetensors")
    sealed(step, "rank-0000.safetensors")
    with pytest.raises(CheckpointError) as error:
        replay(third_party, installed_plugins())
    assert str(error.value) == f"checkpoint {step} cannot be replayed: {why}"


@pytest.mark.parametrize(
    ("tensors", "groups", "why"),
    [
        ({"0.exp_avg": torch.zeros(1)}, {}, "exp_avg of the optimiser has shape [1], not [1, 1, 16]"),
        ({"1.exp_avg_sq": torch.zeros(0)}, {}, "exp_avg_sq of the optimiser has shape [0], not "),
        ({"0.step": torch.zeros(4)}, {}, "step of the optimiser has shape [4], not []"),
        ({}, {"betas": [0.9]}, "betas of the optimiser is (0.9,)"),
        ({}, {"betas": ["0.9", 0.9]}, "betas of the optimiser is ('0.9', 0.9)"),
        ({}, {"lr": "0.1"}, "lr of the optimiser is '0.1'"),
    ],
)
def test_an_optimiser_state_of_another_shape_is_refused_before_a_step(stopped, tmp_path, tensors, groups, why):
    """Promise: no file makes native code read or write memory that does not belong to it.

    Attempt: `--auto-resume` from a checkpoint with a smaller moment than its parameter, which the fused step overruns.
    """
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    step = out / "checkpoints" / "step-00000002"
    save_file(load_file(step / "optimizer.safetensors") | tensors, step / "optimizer.safetensors")
    state = json.loads((step / "state.json").read_text())
    for group in state["state"]["optimizer"]["param_groups"]:
        group.update(groups)
    (step / "state.json").write_text(json.dumps(state))
    sealed(step, "optimizer.safetensors")
    sealed(step, "state.json")
    with pytest.raises(CheckpointError) as error:
        resume(out, installed_plugins())
    assert str(error.value).startswith(f"the checkpoint of step 2 does not fit this recipe ({why}")


def test_the_run_resumes_without_a_change(stopped, tmp_path):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    assert resume(out, installed_plugins()).steps == 4


def test_the_recipe_of_a_third_party_names_no_code(stopped, tmp_path, recipe_module, capsys):
    """Promise: nothing in a run directory is executed or imported.

    Attempt: a recipe.toml whose tracker is a function, with `run --resume`.
    """
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    (out / "recipe.toml").write_text(dump(recipe_module).replace('"metrics"', '"os:system"'))
    assert command_line(["run", "--resume", str(out)]) == 2
    assert capsys.readouterr().err == "error: unknown tracker 'os:system'; known: metrics, report\n"
