"""`evaluate` on a real run of one step, whose distillation head no loss term trained."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import (
    ClassSpaceError,
    DataError,
    RecipeError,
    RunDirectoryError,
    SignalError,
    UnknownPluginError,
    UserError,
    WeightsError,
)
from distillkit.evaluation.evaluate import check_signals, evaluate
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run

STUDENT = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
PLUGINS = installed_plugins()


def write_images(root: Path, classes: tuple[str, ...]) -> str:
    """Four noise images per class and split."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three classes, with labels and no teacher."""
    home = tmp_path_factory.mktemp("evaluate")
    tables = {
        "data": {"train": write_images(home / "pets", ("cat", "dog", "eel")), "validation": 0.25, "workers": 0},
        "augment": {"crop": "none", "eval_crop": 1.0},
        "student": STUDENT,
        "training": {"steps": 1, "batch_size": 4, "device": "cpu", "precision": "fp32"},
        "trackers": [],
    }
    run(Recipe.model_validate(tables), home / "run", PLUGINS)
    return home / "run"


def refused(kind: type[UserError], *arguments: object, **named: object) -> str:
    with pytest.raises(kind) as error:
        evaluate(*arguments, PLUGINS, **named)
    return str(error.value)


def test_figures_are_those_of_the_head_that_was_trained(folder: Path) -> None:
    result = evaluate(str(folder), PLUGINS)
    assert (result.split, result.measurement.figures.keys()) == ("test", {"class_top1", "top1", "loss", "images"})
    assert evaluate(str(folder), PLUGINS, split="validation").measurement.figures["images"] == 3.0


def test_classes_without_an_evaluated_image_are_noted(folder: Path, tmp_path: Path) -> None:
    data = Path(write_images(tmp_path / "pets", ("cat", "dog", "eel")))
    shutil.rmtree(data / "test/eel")
    (note,) = evaluate(str(folder), PLUGINS, data=str(data)).measurement.notes
    assert note == f"test: 1 of 3 classes has no image in '{data / 'test'}': 'eel'"
    assert evaluate(str(folder), PLUGINS).measurement.notes == ()


def test_a_bundle_is_not_evaluated(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").touch()
    assert refused(RunDirectoryError, str(tmp_path)) == (
        f"'{tmp_path}' is a bundle; give the run that it was exported from, or use distillkit predict"
    )


@pytest.mark.parametrize("head", ["distill", "fused"])
def test_a_head_that_no_loss_term_trained_is_refused(folder: Path, head: str) -> None:
    assert refused(UserError, str(folder), options={"head": head}) == (
        f"no loss term trained the distillation head of '{folder}'; leave out --head or use --head class"
    )


def test_a_head_that_the_model_does_not_have() -> None:
    assert refused(UserError, "timm:resnet10t", weights="none", data="digits", options={"head": "distill"}) == (
        "'timm:resnet10t' has no distillation head; leave out --head or use --head class"
    )


def test_a_run_may_be_given_by_its_name_as_a_teacher(folder: Path) -> None:
    """With the run's data and preprocessing, and a line in the run's evaluations.jsonl."""
    by_directory = evaluate(str(folder), PLUGINS).measurement
    before = len((folder / "evaluations.jsonl").read_text().splitlines())
    assert evaluate(f"run:{folder}", PLUGINS).measurement == by_directory
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == before + 1


def test_weights_are_refused_for_a_run(folder: Path) -> None:
    assert refused(WeightsError, str(folder), weights="w.pth") == (
        f"'{folder}' is a run with its own weights; leave out --weights w.pth"
    )


def test_data_with_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    birds = write_images(tmp_path / "birds", ("crow", "duck", "emu", "finch"))
    assert refused(ClassSpaceError, str(folder), data=birds) == (
        f"'{folder}' predicts 3 classes (cat, dog, eel) and '{birds}/train' has 4 classes (crow, duck, emu, ...); "
        "give --data with classes that the model knows"
    )


def test_digit_folders_are_not_logit_indices_of_a_teacher_with_other_class_names() -> None:
    assert refused(ClassSpaceError, "cifar-resnet20", weights="none", data="digits") == (
        "'cifar-resnet20' predicts 10 classes (airplane, automobile, bird, ...) and 'digits' has 10 classes "
        "(0, 1, 2, ...); give --data with classes that the model knows"
    )


def test_folders_named_by_numbers_are_outputs_of_a_run_with_other_class_names(folder: Path, tmp_path: Path) -> None:
    """Folders 0 and 2 hold the images of cat and eel."""
    named = write_images(tmp_path / "named", ("cat", "eel"))
    numbered = tmp_path / "numbered"
    for split in ("train", "test"):
        shutil.copytree(Path(named, split, "cat"), numbered / split / "0")
        shutil.copytree(Path(named, split, "eel"), numbered / split / "2")
    by_name, by_number = (evaluate(str(folder), PLUGINS, data=str(data)).measurement for data in (named, numbered))
    assert by_number.figures == by_name.figures
    assert by_number.notes == ("the folders are named by numbers of the model's outputs: 0 is class 'cat'",)
    shutil.move(numbered / "test" / "2", numbered / "test" / "3")
    shutil.move(numbered / "train" / "2", numbered / "train" / "3")
    assert refused(ClassSpaceError, str(folder), data=str(numbered)) == (
        f"'{folder}' predicts 3 classes (cat, dog, eel) and '{numbered}/train' has 2 classes (0, 3); "
        "give --data with classes that the model knows"
    )


def test_a_root_with_validation_images_only(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder.parent / "pets" / "test", root / "val")
    for split in (None, "validation"):
        found = evaluate(str(folder), PLUGINS, data=str(root), split=split)
        assert (found.split, found.data, found.figures["images"]) == ("validation", str(root / "val"), 12.0)
    assert refused(DataError, str(folder), data=str(root), split="test") == (
        f"'{root}' has no test images, only validation; give --split validation"
    )
    assert refused(DataError, str(folder), data=str(root), protocol="knn") == (
        f"protocol 'knn' learns from training images, and '{root}' has no folder train; add one, or use --protocol top1"
    )


def test_a_checkpoint_of_a_run(folder: Path) -> None:
    """The checkpoint of the last step has the weights and the head of the student at the end."""
    checkpoint = folder / "checkpoints" / "step-00000001"
    found, end = (evaluate(str(target), PLUGINS) for target in (checkpoint, folder))
    assert (found.measurement, found.checkpoint, end.checkpoint) == (end.measurement, "1", "last")
    assert evaluate(str(folder), PLUGINS, checkpoint="1").measurement == end.measurement
    assert refused(UserError, str(checkpoint), options={"head": "distill"}) == (
        f"no loss term trained the distillation head of '{checkpoint}'; leave out --head or use --head class"
    )


def test_a_subset_of_the_classes_is_enough(folder: Path, tmp_path: Path) -> None:
    subset = write_images(tmp_path / "subset", ("dog", "eel"))
    found = [evaluate(str(folder), PLUGINS, data=subset, options=each) for each in ({}, {"restrict": True})]
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()[-2:]]
    assert [each["title"].partition(", ")[2] for each in lines] == [
        "among all 3 classes; the data has 2",
        "restricted to the 2 of 3 classes that the data has",
    ]
    assert [(each["settings"]["restrict"], each["settings"]["classes"]) for each in lines] == [(False, 3), (True, 2)]
    free, restricted = (each.measurement.figures for each in found)
    assert free["images"] == restricted["images"] == 8.0
    assert free["top1"] <= restricted["top1"]
    assert free["loss"] > restricted["loss"]


def test_restricting_to_all_classes_has_no_effect_and_a_note(folder: Path) -> None:
    free = evaluate(str(folder), PLUGINS).measurement
    restricted = evaluate(str(folder), PLUGINS, options={"restrict": True}).measurement
    assert (restricted.figures, restricted.title) == (free.figures, "accuracy of the model's predictions")
    test = folder.parent / "pets" / "test"
    assert (free.notes, restricted.notes) == (
        (),
        (f"restrict has no effect: '{test}' has all 3 classes of the model",),
    )


def test_run_data_that_is_no_longer_at_its_relative_path(folder: Path, tmp_path: Path) -> None:
    """In a run of an earlier version, which did not record the folder in which it was started."""
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    recipe = (moved / "recipe.toml").read_text(encoding="utf-8")
    (moved / "recipe.toml").write_text(recipe.replace(str(folder.parent / "pets"), "pets"), encoding="utf-8")
    assert refused(RecipeError, str(moved)) == (
        f"data.train: run {moved} uses 'pets', which is not found here or in '{Path.cwd()}', where it started; put it "
        "back, or give --data"
    )
    (moved / "started_in.json").unlink()
    sentence = refused(DataError, str(moved))
    assert sentence.startswith("--data (data.train): ")
    assert sentence.endswith(
        "; the run's data path is relative to the folder in which the run was started: change to that folder, or give "
        "--data"
    )


def test_knn_compares_with_all_training_images_if_none_are_held_out(folder: Path, tmp_path: Path) -> None:
    pets = write_images(tmp_path / "more", ("cat", "dog", "eel"))
    for data in (None, pets):
        held = evaluate(str(folder), PLUGINS, protocol="knn", data=data, options={"k": [2]})
        assert held.measurement.settings["training_images"] == 9
        assert held.measurement.notes == (
            "3 training images are held out for validation; --validation 0 compares with all of them",
        )
        whole = evaluate(str(folder), PLUGINS, protocol="knn", data=data, validation=0, options={"k": [2]})
        assert (whole.measurement.settings["training_images"], whole.measurement.notes) == (12, ())


def test_validation_may_be_a_folder_and_is_checked(folder: Path, tmp_path: Path) -> None:
    pets = write_images(tmp_path / "more", ("cat", "dog"))
    measured = evaluate(str(folder), PLUGINS, validation=f"{pets}/test", split="validation")
    assert measured.measurement.figures["images"] == 8.0
    assert refused(RecipeError, str(folder), validation=1.5) == (
        "'data.validation' is 1.5; it should be a share from 0 to 1, a folder, or the name of a data set"
    )


def test_unknown_target() -> None:
    sentence = refused(RunDirectoryError, "regnety16")
    assert sentence.startswith("'regnety16' is neither a run directory (with student.json) nor a teacher; teachers: ")


def test_files_have_the_permissions_of_the_umask(folder: Path) -> None:
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.suffix in {".safetensors", ".json", ".toml"}
    }
    (folder / "probe").touch()
    assert modes == {stat.S_IMODE((folder / "probe").stat().st_mode)}


def test_every_result_of_a_run_is_appended_as_a_line(folder: Path) -> None:
    before = (
        (folder / "evaluations.jsonl").read_text(encoding="utf-8") if (folder / "evaluations.jsonl").exists() else ""
    )
    evaluate(str(folder / "best"), PLUGINS, protocol="knn", options={"k": [2]})
    result = evaluate(str(folder), PLUGINS, split="validation")
    lines = (folder / "evaluations.jsonl").read_text(encoding="utf-8")
    assert lines.startswith(before)
    by_knn, by_top1 = (json.loads(line) for line in lines[len(before) :].splitlines())
    assert (by_knn["target"], by_knn["protocol"], by_knn["split"]) == (str(folder / "best"), "knn", "test")
    assert by_knn["settings"] == {"k": [2], "temperature": 0.07, "training_images": 9}
    assert by_knn["rows"] == [{"k": 2, "top1": by_knn["figures"]["k2_top1"]}]
    assert not (folder / "best" / "evaluations.jsonl").exists()
    assert by_top1 == json.loads(json.dumps(result.as_dict()))


def test_a_result_is_returned_if_the_run_cannot_be_written_to(folder: Path, tmp_path: Path) -> None:
    """A folder of the same name is in the way, which stops root too."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("evaluations.jsonl"))
    (copy / "evaluations.jsonl").mkdir()
    measurement = evaluate(str(copy), PLUGINS).measurement
    assert "top1" in measurement.figures
    assert measurement.notes == (f"result not saved: {copy} cannot be written to (Is a directory)",)


def test_evaluating_a_teacher_by_name_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = evaluate("timm:test_vit", PLUGINS, protocol="knn", weights="none", data="digits", options={"k": [20]})
    assert result.measurement.figures.keys() == {"k20_top1", "k20_top5", "images"}
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_that_learns_is_not_measured_on_training_images(folder: Path) -> None:
    assert refused(DataError, str(folder), protocol="knn", split="train") == (
        "protocol 'knn' learns from the training images and cannot be measured on them; "
        "choose --split validation or test"
    )


@pytest.mark.parametrize("protocol", ["top1", "knn"])
def test_images_without_labels(folder: Path, tmp_path: Path, protocol: str) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(folder.parent / "pets" / "train" / "cat", flat)
    assert refused(DataError, str(folder), protocol=protocol, data=str(flat)) == (
        f"protocol '{protocol}' needs labels and '{flat}' has none; give --data with one folder per class"
    )


def test_labels_only_in_the_measured_split(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "pets"
    shutil.copytree(folder.parent / "pets" / "test", home / "test")
    shutil.copytree(folder.parent / "pets" / "train" / "cat", home / "train")
    assert refused(DataError, str(folder), protocol="knn", data=str(home)) == (
        f"protocol 'knn' learns from labelled training images and '{home}/train' has none; "
        "give --data with some, or use --protocol top1"
    )


def test_more_neighbours_than_training_images(folder: Path) -> None:
    assert refused(DataError, str(folder), protocol="knn", options={"k": [3, 10]}) == (
        f"k = 10 is larger than the 9 labelled images of '{folder.parent}/pets/train'; lower --k"
    )


@pytest.mark.parametrize(
    ("protocol", "kind", "signals", "sentence"),
    [
        (
            "knn",
            "other",
            {Signal.LOGITS},
            (
                "protocol 'knn' reads the embedding of a model; 'm' is neither ViT nor CNN and reveals logits; "
                "use --protocol top1"
            ),
        ),
        (
            "top1",
            "vit",
            {Signal.EMBEDDING, Signal.CLS_ATTENTION},
            (
                "protocol 'top1' reads the logits of a model; 'm' is a ViT and reveals embedding, CLS attention; "
                "use --protocol few-label, knn or linear"
            ),
        ),
        (
            "knn",
            "vit",
            {Signal.CLS_ATTENTION},
            (
                "protocol 'knn' reads the embedding of a model; 'm' is a ViT and reveals CLS attention; "
                "choose another model"
            ),
        ),
    ],
)
def test_a_model_without_the_protocols_signal(protocol: str, kind: str, signals: set[Signal], sentence: str) -> None:
    spec = ModelSpec("m", "m", kind, 10, frozenset(signals), (8, 8))
    with pytest.raises(SignalError) as error:
        check_signals(PLUGINS.find("evaluator", protocol), PLUGINS, spec, "m")
    assert str(error.value) == sentence


def test_unknown_protocol_and_unknown_option(folder: Path) -> None:
    assert refused(UnknownPluginError, str(folder), protocol="kn").startswith(
        "unknown evaluator 'kn'; did you mean 'knn'? (known: "
    )
    assert refused(RecipeError, str(folder), options={"k": [3]}) == (
        "evaluator 'top1': unknown key 'k'; known: fusion, head, per_class, real, restrict"
    )
