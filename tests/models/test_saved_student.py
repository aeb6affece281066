import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import RunDirectoryError, WeightsError
from distillkit.models import build_student, load_saved_student, read_student, save_student
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins, split_name

BOTH = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
LOGITS = {Signal.LOGITS: ()}
NAMES = ("ant", "bee", "cat")
STUDENTS = {
    "deit-ti": {"image_size": [32, 48], "patch": 8, "width": 48, "depth": 2, "drop_path": 0.1},
    "vit-s": {"image_size": 16, "patch": 8, "width": 48, "depth": 1, "heads": 2},
    "timm:regnety_002": {"image_size": 64},
    "small-cnn": {"width": 4, "image_size": 8},
}


@pytest.fixture(scope="module")
def plugins():
    return installed_plugins()


def request_of(plugins, name, classes=3, **options):
    return ModelRequest(name, split_name(name)[1], plugins.find("student", name).options(options), classes=classes)


def build(plugins, name, **options):
    torch.manual_seed(0)
    request = request_of(plugins, name, **(options or STUDENTS[name]))
    return plugins.find("student", name).call("build", request), request


@pytest.fixture
def saved(plugins, tmp_path):
    """A directory with a small saved student."""
    model, request = build(plugins, "deit-ti")
    save_student(tmp_path, model, request, Answer("fused", "logits"), class_names=NAMES)
    return tmp_path


def refused(error, directory, plugins=None):
    with pytest.raises(error) as caught:
        load_saved_student(directory, plugins) if plugins else read_student(directory)
    return str(caught.value)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_loaded_student_equals_the_saved_one(plugins, tmp_path, name):
    model, request = build(plugins, name)
    save_student(tmp_path, model, request, Answer("class", "softmax"), class_names=NAMES)
    loaded, saved = load_saved_student(tmp_path, plugins)
    assert loaded.spec == replace(model.spec, class_names=NAMES) == saved.spec
    assert (saved.model, saved.head, saved.fusion) == (name, "class", "softmax")
    images = torch.randn(2, 3, *model.spec.image_size)
    wanted = BOTH if Signal.DISTILL_LOGITS in model.spec.signals else LOGITS
    with torch.no_grad():
        one, two = model.eval()(images, wanted), loaded.eval()(images, wanted)
    assert torch.equal(one.logits, two.logits)
    assert one.distill_logits is None or torch.equal(one.distill_logits, two.distill_logits)


@pytest.mark.parametrize("name", ["deit-ti", "vit-s", "timm:regnety_002"])
def test_timm_can_load_it_without_distillkit(plugins, tmp_path, name):
    model, request = build(plugins, name)
    save_student(tmp_path, model, request, Answer("fused", "logits"))
    saved = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    timms = timm.create_model(
        saved["spec"]["architecture"], checkpoint_path=tmp_path / "student.safetensors", **saved["arguments"]
    )
    images = torch.randn(2, 3, *model.spec.image_size)
    with torch.no_grad():
        assert torch.equal(timms.eval()(images), model.network.eval()(images))


def test_timm_needs_only_the_number_of_classes_for_the_standard_architecture(plugins, tmp_path):
    model, request = build(plugins, "deit-ti", depth=12)
    save_student(tmp_path, model, request, Answer("fused", "logits"))
    timms = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=3, checkpoint_path=tmp_path / "student.safetensors"
    )
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(timms.eval()(images), model.network.eval()(images))


def test_files_and_content(saved):
    content = json.loads((saved / "student.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in saved.iterdir()) == ["student.json", "student.safetensors"]
    assert content["options"] == {"image_size": [32, 48], "patch": 8, "width": 48, "depth": 2, "drop_path": 0.1}
    assert content["spec"]["class_names"] == list(NAMES)
    assert content["spec"]["signals"] == [
        "cls_attention",
        "distill_logits",
        "embedding",
        "logits",
        "patch_tokens",
        "raw_tokens",
    ]
    assert content["arguments"] == {
        "num_classes": 3, "patch_size": 8, "embed_dim": 48, "depth": 2, "drop_path_rate": 0.1, "img_size": [32, 48],
    }  # fmt: skip
    assert load_file(saved / "student.safetensors")["dist_token"].shape == (1, 1, 48)


def test_saving_again_replaces(plugins, saved):
    model, request = build(plugins, "vit-s")
    save_student(saved, model, request, Answer("class", "logits"))
    assert read_student(saved).model == "vit-s"
    assert "dist_token" not in load_file(saved / "student.safetensors")


def test_reading_the_description_loads_no_weights(plugins, saved):
    (saved / "student.safetensors").write_bytes(b"trunc")
    description = read_student(saved)
    assert description.spec.class_names == NAMES
    assert build_student(description, plugins).spec == description.spec
    assert refused(WeightsError, saved, plugins) == (
        f"{saved / 'student.safetensors'} is not a valid .safetensors file (Error while deserializing header: header "
        "too small); copy or download it again"
    )


def test_no_directory(tmp_path):
    assert (
        refused(RunDirectoryError, tmp_path / "run")
        == f"there is no run directory '{tmp_path / 'run'}'; check the path"
    )


@pytest.mark.parametrize("file", ["student.json", "student.safetensors"])
def test_directory_without_a_finished_student(saved, file):
    (saved / file).unlink()
    assert refused(RunDirectoryError, saved) == (
        f"{saved} has no {file}; give the directory of a run that has reached its end"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1, "model": 3}'])
def test_invalid_description(saved, content):
    (saved / "student.json").write_text(content, encoding="utf-8")
    assert refused(RunDirectoryError, saved) == (
        f"{saved / 'student.json'} is truncated or not written by distillkit; run the training again or "
        "restore the file"
    )


def test_description_of_a_newer_format(saved):
    content = json.loads((saved / "student.json").read_text(encoding="utf-8"))
    (saved / "student.json").write_text(json.dumps({**content, "format": 2, "news": 1}), encoding="utf-8")
    assert refused(RunDirectoryError, saved) == (
        f"{saved / 'student.json'} has format 2 and this distillkit reads up to 1; update distillkit"
    )


def test_weights_of_another_student(plugins, saved):
    weights = load_file(saved / "student.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "blocks.1" not in name}, saved / "student.safetensors"
    )
    assert refused(WeightsError, saved, plugins) == (
        f"{saved / 'student.safetensors'} does not fit 'deit-ti' (deit_tiny_distilled_patch16_224): "
        "12 of 35 tensors are missing (blocks.1.norm1.weight, blocks.1.norm1.bias, blocks.1.attn.qkv.weight, ...); "
        "give weights of exactly this architecture"
    )
