"""Targets of `distillkit export`, end to end: runs, best students, checkpoints, models by name."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distillkit.contracts.exporter import Provenance
from distillkit.errors import CheckpointError, RunDirectoryError, UnknownPluginError, UserError, WeightsError
from distillkit.models import hub
from distillkit.models.timm_model import TimmModel
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from distillkit_export import ExportOptions, ExportResult, export
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.bundle.student_of_bundle import default_folder
from distillkit_export.onnx.session import OnnxSession
from distillkit_export.pipeline.target import load_target

SETTINGS = {
    "data": {"train": "digits", "validation": 0.1, "workers": 0},
    "augment": {"crop": "none", "flip": 0.0, "eval_crop": 1.0, "interpolation": "bilinear"},
    "training": {"steps": 4, "batch_size": 64, "device": "cpu", "precision": "fp32", "checkpoint_every": 2, "keep": 2},
    "trackers": [],
}


@pytest.fixture(scope="module")
def teacher_run(plugins, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    student = {"model": "small-cnn", "width": 8, "image_size": 8}
    run(Recipe.model_validate(SETTINGS | {"student": student}), folder, plugins)
    return folder


@pytest.fixture(scope="module")
def run_folder(plugins, teacher_run):
    """A finished run on digits, with a teacher that was itself a run."""
    folder = teacher_run.parent / "tonight"
    student = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    tables = {
        "student": student,
        "teachers": [{"model": f"run:{teacher_run}"}],
        "losses": [{"loss": "hard"}],
        "evaluation": {"head": "distill", "fusion": "softmax"},
    }
    run(Recipe.model_validate(SETTINGS | tables), folder, plugins)
    return folder


@pytest.fixture(scope="module")
def exported_run(plugins, run_folder):
    return export(run_folder)


def refusal(kind, *arguments, **named):
    with pytest.raises(kind) as error:
        load_target(*arguments, **named)
    return str(error.value)


def copied(run_folder, tmp_path, *missing):
    """A copy of the run without the `missing` files, as if it were unfinished."""
    folder = tmp_path / "unfinished"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("export*", *missing))
    return folder


def test_a_run_of_an_earlier_version_is_exported_with_images_as_stored(plugins, run_folder, tmp_path):
    assert load_target(str(run_folder), plugins, ExportOptions()).model.spec.orientation == "exif"
    folder = copied(run_folder, tmp_path)
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace('orientation = "exif"\n', ""))
    assert load_target(str(folder), plugins, ExportOptions()).model.spec.orientation == "stored"


def test_run_is_exported_into_its_own_folder_with_the_head_of_its_evaluation(exported_run, run_folder):
    manifest = exported_run.manifest
    assert exported_run.directory == run_folder / "export"
    assert (manifest["output"]["head"], manifest["output"]["fusion"]) == ("distill", None)
    weights = (run_folder / "student.safetensors").read_bytes()
    recipe = (run_folder / "recipe.toml").read_bytes()
    assert manifest["source"] == {
        "run": "tonight",
        "checkpoint": "last",
        "recipe_sha256": hashlib.sha256(recipe).hexdigest(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert manifest["student"]["model"] == "deit-ti"
    assert manifest["student"]["options"] == {"image_size": [8, 8], "patch": 4, "width": 16, "depth": 1, "heads": 2}
    assert manifest["class_names"] == [str(digit) for digit in range(10)]
    assert manifest["teachers"] == [{"name": "run:teacher", "architecture": "small-cnn", "licence": None}]
    assert (manifest["input"]["interpolation"], manifest["input"]["crop"]) == ("bilinear", 1.0)


def test_parity_of_a_run_is_measured_on_its_own_test_images(exported_run):
    assert exported_run.parity.images == "test images of run 'tonight'"
    assert (exported_run.parity.image_count, exported_run.parity.weak) == (500, False)
    assert exported_run.parity.max_relative <= 4.4e-6


def test_export_from_python_accepts_the_options_of_the_command_line(run_folder, tmp_path):
    steps = []
    options = ExportOptions(fp16=True, head="class", softmax=True, gate_images=32, calibration_images=8)
    result = export(run_folder / "best", tmp_path / "out", replace(options, progress=lambda *step: steps.append(step)))
    assert isinstance(result, ExportResult)
    result.require()
    assert result.directory == tmp_path / "out"
    assert [card.file for card in open_bundle(result.directory).manifest.artifacts] == ["model.onnx", "model.fp16.onnx"]
    assert (result.manifest["output"]["name"], result.manifest["output"]["head"]) == ("probabilities", "class")
    assert result.parity.image_count == 32
    assert result.manifest["artifacts"][1]["made_with"]["images"] == 8
    assert steps == []  # ONNX files report no progress
    with pytest.raises(UserError) as error:
        export(result.directory, options=ExportOptions(trt=True, softmax=True))
    assert str(error.value) == (
        f"--softmax only applies to exporting a student, but '{result.directory}' is a bundle, to which formats are "
        "added in place; leave out --softmax"
    )


def test_run_at_another_size_is_gated_on_its_images_at_that_size(run_folder, plugins):
    options = ExportOptions(image_size=(16, 12))
    target = load_target(str(run_folder), plugins, options)
    checkpoint = load_target(str(run_folder / "checkpoints" / "step-00000004"), plugins, options)
    for found in (target, checkpoint):
        assert found.model.spec.image_size == (16, 12)
        assert found.model.spec.class_names == tuple(str(digit) for digit in range(10))
        assert found.model.network.pos_embed.shape == (1, 4 * 3 + 2, 16)
    assert torch.equal(target.model.network.pos_embed, checkpoint.model.network.pos_embed)
    gate = target.find_images().gate
    assert gate.source == "test images of run 'tonight'"
    assert gate.pixels[np.arange(2)].shape == (2, 3, 16, 12)


def test_nothing_in_the_export_names_a_folder_of_this_machine(exported_run, run_folder):
    for file in exported_run.directory.iterdir():
        assert str(run_folder.parent).encode() not in file.read_bytes()


def test_exported_run_is_the_saved_student(exported_run, run_folder, plugins):
    target = load_target(str(run_folder), plugins)
    images = target.find_images().gate.pixels[:4]
    with torch.inference_mode():
        tokens = target.model.network.eval().forward_features(torch.from_numpy(images))
        expected = target.model.network.head_dist(tokens[:, 1]).numpy()
    scores = OnnxSession(exported_run.directory / "model.onnx")(images)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_checkpoint_of_the_last_step_is_the_student_at_the_end(run_folder, plugins):
    last = load_target(str(run_folder / "checkpoints" / "step-00000004"), plugins)
    earlier = load_target(str(run_folder / "checkpoints" / "step-00000002"), plugins)
    end = load_target(str(run_folder), plugins)
    states = [target.model.network.state_dict() for target in (last, end, earlier)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert not all(torch.equal(tensor, states[1][name]) for name, tensor in states[2].items())
    first, second = last.request, end.request
    assert (first.head, first.fusion, last.model.spec) == (second.head, second.fusion, end.model.spec)
    assert (first.provenance.run, first.provenance.teachers) == ("tonight", second.provenance.teachers)
    assert first.provenance.options == second.provenance.options


def test_default_folders_are_never_inside_folders_that_a_run_replaces(run_folder, tmp_path):
    assert default_folder(str(run_folder)) == run_folder / "export"
    assert default_folder(str(run_folder / "best")) == run_folder / "export-best"
    checkpoint = run_folder / "checkpoints" / "step-00000004"
    assert default_folder(str(checkpoint)) == run_folder / "export-step-00000004"
    assert default_folder(str(tmp_path)) == tmp_path / "export"
    assert default_folder("timm:hf-hub/resnet18").as_posix() == "exports/timm-hf-hub-resnet18"


def test_photographs_are_used_if_the_data_of_the_run_is_missing(run_folder, tmp_path, plugins):
    folder = copied(run_folder, tmp_path)
    text = (folder / "recipe.toml").read_text().replace('train = "digits"', 'train = "elsewhere/flowers"')
    (folder / "recipe.toml").write_text(text)
    images = load_target(str(folder), plugins).find_images().gate
    assert images.weak
    assert images.source == (
        "crops of two photographs that scikit-learn ships, because the run's images cannot be read here"
    )


def test_student_without_its_run_can_be_exported(run_folder, tmp_path, plugins):
    for name in ("student.json", "student.safetensors"):
        shutil.copy(run_folder / name, tmp_path / name)
    target = load_target(str(tmp_path), plugins)
    assert target.find_images().gate.source == (
        "crops of two photographs that scikit-learn ships, because the student has no run directory"
    )
    assert (target.request.provenance.run, target.request.provenance.teachers) == (tmp_path.name, ())


def test_head_that_no_term_trained_is_not_exported(tmp_path, plugins):
    student = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    folder = tmp_path / "labels-only"
    run(Recipe.model_validate(SETTINGS | {"student": student, "losses": [{"loss": "ce"}]}), folder, plugins)
    for head in ("fused", "distill"):
        with pytest.raises(UserError) as error:
            export(folder, options=ExportOptions(head=head), plugins=plugins)
        assert str(error.value) == (
            f"no loss term trained the distillation head of '{folder}'; leave out --head or use --head class"
        )
    assert not (folder / "export").exists()


def test_unfinished_run_names_what_can_be_exported(run_folder, tmp_path, plugins):
    folder = copied(run_folder, tmp_path / "a", "student.*")
    (folder / "best").mkdir(exist_ok=True)
    (folder / "best" / "student.json").write_text("{}")
    assert refusal(RunDirectoryError, str(folder), plugins) == (
        f"run '{folder}' is not finished; export its best student so far with '{folder / 'best'}'"
    )
    folder = copied(run_folder, tmp_path / "b", "student.*")
    assert refusal(RunDirectoryError, str(folder), plugins) == (
        f"run '{folder}' is not finished; export its newest checkpoint with "
        f"'{folder / 'checkpoints' / 'step-00000004'}'"
    )
    folder = copied(run_folder, tmp_path / "c", "student.*", "checkpoints")
    assert refusal(RunDirectoryError, str(folder), plugins) == (
        f"run '{folder}' is not finished; continue it with --resume {folder}"
    )


def test_truncated_checkpoint_is_refused(run_folder, tmp_path, plugins):
    folder = copied(run_folder, tmp_path) / "checkpoints" / "step-00000004"
    (folder / "task.safetensors").write_bytes(b"truncated")
    message = refusal(CheckpointError, str(folder), plugins)
    assert message.startswith(f"checkpoint {folder} cannot be read ({folder / 'task.safetensors'} ")
    assert message.endswith("); use another one")


def test_directory_without_a_student_is_refused(tmp_path, plugins):
    assert refusal(RunDirectoryError, str(tmp_path), plugins) == (
        f"'{tmp_path}' contains no student; give a run directory, a directory with student.json, or a checkpoint"
    )


def test_folder_of_checkpoints_names_the_newest(run_folder, plugins):
    folder = run_folder / "checkpoints"
    assert refusal(RunDirectoryError, str(folder), plugins) == (
        f"'{folder}' is a folder of checkpoints; export the newest with '{folder / 'step-00000004'}'"
    )


def test_folder_of_checkpoints_without_its_run_is_refused(run_folder, tmp_path, plugins):
    folder = copied(run_folder, tmp_path, "recipe.toml") / "checkpoints"
    assert refusal(RunDirectoryError, str(folder), plugins) == (
        f"'{folder}' contains no student; give a run directory, a directory with student.json, or a checkpoint"
    )


def test_weights_that_cannot_be_downloaded_are_a_weights_error(plugins, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.WeightsLocation, "cached", lambda place: None)
    host = urlparse(hub.constants.ENDPOINT).hostname
    assert refusal(WeightsError, "timm:resnet18", plugins) == (
        f"the published weights of 'resnet18' are not in the local cache and {host} cannot be reached; "
        "give a file with --weights, or --weights none for an untrained network"
    )
    assert load_target("timm:resnet18", plugins, ExportOptions(weights="none")).model.spec.classes == 1000


def test_name_that_is_neither_a_directory_nor_a_model_is_refused(plugins):
    assert refusal(RunDirectoryError, "runs/yesterday", plugins) == (
        "'runs/yesterday' is neither a directory nor a model by name; give a run directory, a directory with "
        "student.json, or a name such as timm:resnet18"
    )


def test_weights_option_for_a_run_is_refused(run_folder, plugins):
    assert refusal(UserError, str(run_folder), plugins, ExportOptions(weights="other.safetensors")) == (
        f"'{run_folder}' already has weights; leave out --weights, or give a model by name such as timm:resnet18"
    )


def test_model_by_name_with_a_weight_file(tmp_path, plugins):
    torch.manual_seed(3)
    trained = TimmModel.create("test_vit", name="any", classes=5).network.state_dict()
    file = tmp_path / "vit.safetensors"
    save_file(trained, file)
    target = load_target("timm:test_vit", plugins, ExportOptions(weights=str(file)))
    loaded = target.model.network.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in loaded.items())
    assert target.request.provenance == Provenance(
        model="timm:test_vit", weights_sha256=hashlib.sha256(file.read_bytes()).hexdigest()
    )
    assert (target.request.head, target.request.fusion, target.model.spec.classes) == ("fused", "logits", 5)
    assert target.find_images().gate.source == (
        "crops of two photographs that scikit-learn ships, because a model by name has no images"
    )


def test_model_by_name_keeps_its_two_heads(plugins):
    target = load_target("timm:deit_tiny_distilled_patch16_224", plugins, ExportOptions(weights="none"))
    assert {signal.value for signal in target.model.spec.signals} >= {"logits", "distill_logits"}


def test_exporter_and_opset_are_checked_before_anything_is_loaded(tmp_path, plugins):
    with pytest.raises(UnknownPluginError) as unknown:
        export("nothing", tmp_path / "out", ExportOptions(formats=("onxx",)), plugins=plugins)
    assert str(unknown.value) == "unknown exporter 'onxx'; did you mean 'onnx'? (known: onnx, tensorrt)"
    with pytest.raises(UserError) as error:
        ExportOptions(opset=9)
    assert str(error.value) == "opset 9 is not supported; choose one from 18 to 23"


def test_folder_in_use_is_refused_before_anything_is_loaded(tmp_path, plugins):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunDirectoryError) as error:
        export("nothing", tmp_path, plugins=plugins)
    assert str(error.value) == f"folder '{tmp_path}' is not empty and is not an export; give another folder"
