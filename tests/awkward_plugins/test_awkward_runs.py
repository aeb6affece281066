"""Training with the awkward losses; impossible combinations are refused before weights are loaded."""

import json
import math

import pytest
from safetensors.torch import load_file

from distillkit import SignalError, UserError
from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import plan, resume, run

DEIT = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2}
CNN = {"model": "small-cnn", "width": 6, "image_size": 8}


def logged(directory):
    """The logged records; with `log_every = 1`, one per step."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]


def test_a_label_aware_loss_trains_with_half_of_the_labels_missing(install, recipe_of, teachers, tmp_path):
    install("contract_label_aware")
    recipe = recipe_of(
        DEIT, data={"workers": 0, "labels": 500}, teachers=[{"model": teachers[8]}], losses=[{"loss": "label-aware"}]
    )
    result = run(recipe, tmp_path / "run", installed_plugins())
    records = logged(result.directory)
    assert len(records) == 6
    terms = ("loss/labels", "loss/label-aware/target_class", "loss/label-aware/other_classes")
    assert all(math.isfinite(record[term]) for record in records for term in terms)


def test_a_label_aware_loss_is_refused_without_labels(install, recipe_of, teachers):
    install("contract_label_aware")
    losses = [{"loss": "label-aware"}]
    recipe = recipe_of(DEIT, labels={"weight": 0.0}, teachers=[{"model": teachers[8]}], losses=losses)
    with pytest.raises(UserError) as refusal:
        plan(recipe, installed_plugins())
    assert str(refusal.value) == (
        "loss 'label-aware' reads the labels and this run has none; give labels or choose another"
    )


def test_projectors_train_resume_and_are_not_saved_with_the_student(install, recipe_of, teachers, tmp_path):
    install("contract_two_stages")
    recipe = recipe_of(
        CNN,
        training={"steps": 6, "batch_size": 32, "log_every": 1, "device": "cpu", "checkpoint_every": 3, "keep": 9},
        teachers=[{"model": teachers[8]}],
        losses=[{"loss": "two-stages", "stages": [0, 2], "weight": 0.5}],
    )
    directory = run(recipe, tmp_path / "run", installed_plugins()).directory
    early, late = (load_file(directory / "checkpoints" / f"step-0000000{step}" / "task.safetensors") for step in (3, 6))
    projectors = [name for name in late if "projectors" in name]
    assert len(projectors) == 4
    assert all(not early[name].equal(late[name]) for name in projectors)
    assert not any("projectors" in name for name in load_file(directory / "student.safetensors"))
    assert all(math.isfinite(record["loss/two-stages/stage1"]) for record in logged(directory))

    # Without the last checkpoint, the run resumes after the third step and must reach the same weights.
    for name in ("result.json", "student.safetensors", "student.json"):
        (directory / name).unlink()
    last = directory / "checkpoints" / "step-00000006"
    for part in last.iterdir():
        part.unlink()
    last.rmdir()
    resume(directory, installed_plugins())
    resumed = load_file(last / "task.safetensors")
    assert all(late[name].equal(resumed[name]) for name in late)


def test_two_teachers_with_a_loss_each(install, recipe_of, teachers, tmp_path):
    install("contract_two_stages")
    recipe = recipe_of(
        DEIT,
        labels={"weight": 0.25},
        teachers=[{"model": teachers[8], "name": "wide"}, {"model": teachers[4], "name": "narrow"}],
        losses=[
            {"loss": "soft", "teacher": "wide", "tau": 2.0, "lambda": 0.5},
            {"loss": "two-stages", "teacher": "narrow", "stages": [0, 1], "weight": 2.0},
        ],
    )
    checked = plan(recipe, installed_plugins())
    assert checked.formula == "0.25 * labels + 0.5 * soft + 2 * two-stages"
    assert {name: loss.teacher for name, loss in checked.losses.items()} == {"soft": "wide", "two-stages": "narrow"}
    records = logged(run(recipe, tmp_path / "run", installed_plugins()).directory)
    terms = {"loss/labels", "loss/soft/soft", "loss/two-stages/stage0", "loss/two-stages/stage1"}
    assert terms == {key for key in records[0] if key.startswith("loss/")}
    for record in records:
        total = (
            0.25 * record["loss/labels"]
            + 0.5 * record["loss/soft/soft"]
            + 2 * (record["loss/two-stages/stage0"] + record["loss/two-stages/stage1"])
        )
        assert record["loss"] == pytest.approx(total, rel=1e-5)


def test_a_loss_on_attention_trains_a_student_with_other_tokens_and_heads(install, recipe_of, tmp_path):
    install("contract_attention_row")
    distilled = {**DEIT, "width": 24, "heads": 3}
    run(recipe_of(distilled), tmp_path / "teacher", installed_plugins())
    recipe = recipe_of(
        {**DEIT, "model": "vit-ti"},
        steps=60,
        optimizer={"lr": 0.01},
        labels={"weight": 0.0},
        teachers=[{"model": f"run:{tmp_path / 'teacher'}"}],
        losses=[{"loss": "attention-row", "weight": 100.0}],
    )
    checked = plan(recipe, installed_plugins())
    assert {"head.weight", "blocks.1.attn.proj.weight"} <= set(checked.student.untrained)
    assert "blocks.0.attn.qkv.weight" not in checked.student.untrained
    records = logged(run(recipe, tmp_path / "run", installed_plugins()).directory)
    distances = [record["loss/attention-row/row"] for record in records]
    assert sum(distances[-10:]) < 0.5 * sum(distances[:10])


def test_a_loss_on_attention_is_refused_for_a_cnn_before_weights_are_loaded(install, recipe_of):
    install("contract_attention_row")
    recipe = recipe_of(DEIT, teachers=[{"model": "regnety16gf"}], losses=[{"loss": "attention-row"}])
    with pytest.raises(SignalError) as refusal:
        plan(recipe, installed_plugins())
    assert str(refusal.value) == (
        "loss 'attention-row' reads the teacher's CLS attention; teacher 'regnety16gf' is a CNN and reveals logits, "
        "embedding, patch tokens, raw tokens; try --loss features"
    )


def test_a_loss_on_attention_is_refused_with_the_reason_for_a_vit_that_does_not_reveal_it(install, recipe_of):
    install("contract_attention_row")
    teachers = [{"model": "timm:vit_base_patch16_siglip_224"}]
    recipe = recipe_of(DEIT, teachers=teachers, losses=[{"loss": "attention-row"}])
    with pytest.raises(SignalError) as refusal:
        plan(recipe, installed_plugins())
    assert str(refusal.value) == (
        "loss 'attention-row' reads the teacher's CLS attention; teacher 'timm:vit_base_patch16_siglip_224' does not "
        "reveal it because it has no class token; it reveals embedding, patch tokens, raw tokens; try --loss features"
    )
