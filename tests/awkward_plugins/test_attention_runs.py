"""Attention distillation, from the recipe to the saved student, with models that reveal CLS attention."""

import json
import math

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from distillkit import DataError, RecipeError, Signal, SignalError, UserError
from distillkit.models import load_saved_student
from distillkit.planning.render import plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Labels, StudentEntry
from distillkit.running.start import plan, resume, run
from distillkit.testing import check_student, check_teacher
from distillkit_export import ExportOptions, export

pytestmark = pytest.mark.filterwarnings("ignore::distillkit.testing.SlowListingWarning")

STUDENT = {"model": "attentive"}
FINER = [{"model": "finer"}]


@pytest.fixture
def unlabeled(tmp_path):
    """A folder of 24 small unlabelled images."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(24):
        pixels = generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def label_free(install, recipe_of, unlabeled):
    """Make an AttnDistill recipe without labels: `label_free(distance="cosine")`.

    The teacher has patches of 8 pixels, the student of 16, on images of 32 x 48 pixels.
    """
    install("contract_attentive_vit")

    def make(**options):
        return recipe_of(
            STUDENT,
            data={"workers": 0, "train": None, "unlabeled": str(unlabeled)},
            teachers=FINER,
            losses=[{"loss": "attndistill", **options}],
            training={
                "steps": 6,
                "batch_size": 8,
                "log_every": 1,
                "checkpoint_every": 3,
                "keep": 9,
                "device": "cpu",
                "precision": "fp32",
            },
            optimizer={"lr": 3e-3},
        )

    return make


def logged(directory):
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]


def test_the_models_of_these_tests_conform(install):
    install("contract_attentive_vit")
    check_student("attentive", backend=None)
    check_teacher("finer", backend=None)


def test_a_folder_without_labels_is_planned_without_classes(label_free):
    made = plan(label_free(), installed_plugins())
    assert made.formula == "1 * attndistill"
    assert (made.classes, made.class_names, made.label_weight) == (0, None, 0.0)
    assert made.student.untrained == ()
    assert made.teachers["finer"].spec.grid == (4, 6)
    assert made.student.spec.grid == (2, 3)
    assert "the student has no class head, so top-1 is not measured; the student learns an embedding" in made.notes
    lines = dict(plan_lines(made))
    assert lines["classes"] == "none"
    assert "reveals embedding of layers 0, CLS attention of layers 0; returns its embedding" in [
        text for _, text in plan_lines(made)
    ]


def test_attndistill_trains_without_labels_and_does_not_save_the_projector(label_free, tmp_path):
    result = run(label_free(), tmp_path / "run", installed_plugins())
    records = logged(result.directory)
    assert len(records) == 6
    assert {key for key in records[0] if key.startswith("loss/")} == {
        "loss/attndistill/align",
        "loss/attndistill/attention",
    }
    for record in records:
        terms = record["loss/attndistill/align"] + record["loss/attndistill/attention"]
        assert record["loss"] == pytest.approx(terms, rel=1e-5)
        assert math.isfinite(terms)
    assert records[-1]["loss"] < records[0]["loss"]
    assert not any("top1" in name for name in result.figures)

    early, late = (
        load_file(result.directory / "checkpoints" / f"step-0000000{step}" / "task.safetensors") for step in (3, 6)
    )
    projector = [name for name in late if "projector" in name]
    assert len(projector) == 2 * 6  # two norms and four linear layers
    assert all(not early[name].equal(late[name]) for name in projector)
    saved = load_file(result.directory / "student.safetensors")
    assert sorted(saved) == [
        "cls_token",
        "norm.bias",
        "norm.weight",
        "patches.bias",
        "patches.weight",
        "qkv.bias",
        "qkv.weight",
    ]
    student, _ = load_saved_student(result.directory, installed_plugins())
    assert (student.spec.classes, student.spec.width) == (0, 12)


def test_the_export_is_the_student_before_the_projector(label_free, tmp_path):
    directory = run(label_free(), tmp_path / "run", installed_plugins()).directory
    exported = export(directory)
    output = exported.manifest["output"]
    assert (output["name"], output["shape"], output["head"]) == ("embedding", ["batch", 12], None)
    assert exported.lines()[0].endswith("export: 1 file, opset 20, batch x 3 x 32 x 48 images, embedding")
    images = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    student, _ = load_saved_student(directory, installed_plugins())
    with torch.no_grad():
        (embedding,) = student.eval()(images, {Signal.EMBEDDING: (0,)}).embedding
    session = onnxruntime.InferenceSession(exported.directory / exported.artifact.file)
    (found,) = session.run(["embedding"], {"images": images.numpy()})
    np.testing.assert_allclose(found, embedding.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "student",
    [
        {"model": "vit-ti", "image_size": [16, 24], "patch": 8, "width": 24, "depth": 2, "heads": 2},
        {"model": "deit-ti", "image_size": [16, 24], "patch": 8, "width": 24, "depth": 2, "heads": 2},
        {"model": "small-cnn", "width": 4, "image_size": [16, 24]},
    ],
)
def test_alignment_alone_trains_any_student_without_labels(label_free, tmp_path, student):
    recipe = label_free(attention_weight=0).model_copy(update={"student": StudentEntry.model_validate(student)})
    directory = run(recipe, tmp_path / "run", installed_plugins()).directory
    records = logged(directory)
    assert records[-1]["loss"] < records[0]["loss"]
    student, _ = load_saved_student(directory, installed_plugins())
    assert student.spec.classes == 0
    assert Signal.LOGITS not in student.spec.signals
    assert not any("head" in name for name in load_file(directory / "student.safetensors"))


def test_the_projector_resumes_exactly(label_free, tmp_path):
    directory = run(label_free(), tmp_path / "run", installed_plugins()).directory
    last = directory / "checkpoints" / "step-00000006"
    before = load_file(last / "task.safetensors")
    for path in (directory / "result.json", directory / "student.safetensors", directory / "student.json"):
        path.unlink()
    for part in last.iterdir():
        part.unlink()
    last.rmdir()
    resume(directory, installed_plugins())
    after = load_file(last / "task.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_every_loss_trains_with_labels_too(install, recipe_of, tmp_path):
    """On digits, with different numbers of heads, and for ADViT with the label term."""
    install("contract_attentive_vit")
    small = {"image_size": [8, 8], "patch": 4}
    recipe = recipe_of(
        {**STUDENT, **small},
        steps=3,
        teachers=[{"model": "finer", "size": "native"}],
        labels={"weight": 1.0},
        losses=[
            {"loss": "advit-l1"},
            {"loss": "advit-l2", "heads": "logsum", "weight": 10.0},
            {"loss": "advit-kl", "form": "direct", "heads": "group"},
            {"loss": "attndistill", "temperature": "heads"},
        ],
    )
    checked = plan(recipe, installed_plugins())
    assert checked.formula == "1 * labels + 1 * advit-l1 + 10 * advit-l2 + 1 * advit-kl + 1 * attndistill"
    result = run(recipe, tmp_path / "run", installed_plugins())
    for record in logged(result.directory):
        assert all(math.isfinite(value) for key, value in record.items() if key.startswith("loss"))
    assert "test/top1" in result.figures


@pytest.mark.parametrize(
    "student",
    [STUDENT, {"model": "deit-ti", "image_size": [16, 24], "patch": 8, "width": 24, "depth": 2, "heads": 2}],
)
def test_an_untrained_head_is_neither_measured_nor_exported(install, recipe_of, tmp_path, student):
    """Digits have labels, but AttnDistill does not read them."""
    install("contract_attentive_vit")
    recipe = recipe_of(student, steps=2, teachers=FINER, losses=[{"loss": "attndistill", "attention_weight": 0}])
    made = plan(recipe, installed_plugins())
    assert {name.partition(".")[0] for name in made.student.untrained} <= {"head", "head_dist"}
    assert [note for note in made.notes if "head" in note] == [
        "no loss term trains a class head, so top-1 is not measured; the student learns an embedding"
    ]
    result = run(recipe, tmp_path / "run", installed_plugins())
    assert dict(result.figures) == {}
    student, saved = load_saved_student(result.directory, installed_plugins())
    assert Signal.LOGITS not in student.spec.signals
    assert saved.spec.signals == student.spec.signals
    assert "head.weight" in student.network.state_dict()
    assert export(result.directory).manifest["output"]["name"] == "embedding"
    with pytest.raises(UserError) as refusal:
        export(result.directory, options=ExportOptions(head="class", force=True))
    assert str(refusal.value) == (
        f"'{result.directory}' has no trained class head: its output is the embedding; leave out --head"
    )


@pytest.mark.parametrize("loss", ["advit-kl", "advit-l1", "advit-l2"])
def test_a_teacher_without_attention_is_refused(install, recipe_of, loss):
    install("contract_attentive_vit")
    with pytest.raises(SignalError) as refusal:
        plan(recipe_of(STUDENT, teachers=[{"model": "regnety16gf"}], losses=[{"loss": loss}]), installed_plugins())
    assert str(refusal.value) == (
        f"loss '{loss}' reads the teacher's CLS attention; teacher 'regnety16gf' is a CNN and reveals logits, "
        "embedding, patch tokens, raw tokens; try --loss features"
    )


@pytest.mark.parametrize("options", [{}, {"interpolation": "none"}, {"interpolation": "area"}])
def test_attndistill_from_a_teacher_without_attention_is_refused_with_the_same_message(install, recipe_of, options):
    install("contract_attentive_vit")
    losses = [{"loss": "attndistill", **options}]
    with pytest.raises(SignalError) as refusal:
        plan(recipe_of(STUDENT, teachers=[{"model": "regnety16gf"}], losses=losses), installed_plugins())
    assert str(refusal.value) == (
        "loss 'attndistill' reads the teacher's CLS attention; teacher 'regnety16gf' is a CNN and reveals logits, "
        "embedding, patch tokens, raw tokens; try --loss features"
    )


def test_a_student_without_attention_is_refused(install, recipe_of):
    install("contract_attentive_vit")
    student = {"model": "small-cnn", "image_size": 8}
    losses = [{"loss": "advit-l1", "heads": "group"}]
    with pytest.raises(SignalError) as refusal:
        plan(recipe_of(student, teachers=FINER, losses=losses), installed_plugins())
    assert str(refusal.value) == (
        "loss 'advit-l1' reads the student's CLS attention; student 'small-cnn' is a CNN and reveals logits, "
        "embedding, patch tokens, raw tokens; choose another student"
    )


def test_grids_and_heads_that_do_not_fit_are_refused_by_the_plan(label_free, install, recipe_of):
    with pytest.raises(RecipeError) as refusal:
        plan(label_free(interpolation="none"), installed_plugins())
    assert str(refusal.value) == (
        "loss 'attndistill': teacher 'finer' has 4 x 6 patches and student 'attentive' 2 x 3, but "
        'interpolation = "none" needs equal grids; use "bicubic" or "area", or choose patch and image sizes that give '
        "equal grids"
    )
    recipe = recipe_of({**STUDENT, "heads": 4}, teachers=FINER, losses=[{"loss": "advit-l1", "heads": "group"}])
    with pytest.raises(RecipeError) as refusal:
        plan(recipe, installed_plugins())
    assert str(refusal.value) == (
        "loss 'advit-l1': heads = \"group\" needs a teacher whose number of heads is a multiple of the student's; "
        "teacher 'finer' has 6 heads and student 'attentive' has 4; use heads = \"mean\" or \"logsum\""
    )


def test_a_label_weight_without_labels_is_refused(label_free):
    recipe = label_free().model_copy(update={"labels": Labels(weight=1.0)})
    with pytest.raises(DataError) as refusal:
        plan(recipe, installed_plugins())
    assert (
        str(refusal.value)
        == "labels.weight is 1, but no image has a label; use labelled --data, or --set labels.weight=0"
    )
