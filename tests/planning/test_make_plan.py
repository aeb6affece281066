"""Plans: their content and notes, and the errors that come before any weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

import distillkit
from distillkit.errors import ClassSpaceError, DataError, RecipeError, UnknownPluginError, WeightsError
from distillkit.planning.render import plan_as_dict, plan_lines
from distillkit.plugin.plugin import Plugin, PluginRole
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.session import build_session
from distillkit.running.start import plan, run

HARD = {"losses": [{"loss": "hard"}]}
SOFT = {"losses": [{"loss": "soft"}]}


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A flat folder of twelve unlabelled images of digits."""
    from PIL import Image

    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for number, image in enumerate(load_digits().images[:12]):
        Image.fromarray((image * 15).astype("uint8")).save(folder / f"{number}.png")
    return folder


def test_hard_distillation_onto_a_token(recipe_of: Any, teacher_run: str) -> None:
    run_plan = plan(recipe_of(HARD, {"teachers": [{"model": teacher_run, "name": "cnn"}]}), installed_plugins())
    assert run_plan.formula == "0.5 * labels + 0.5 * hard"
    assert run_plan.student.head == "fused"
    assert run_plan.student.untrained == ()
    assert run_plan.steps_per_epoch == 18
    assert run_plan.cost.total_flops == run_plan.cost.images * (
        3 * run_plan.cost.student_flops + run_plan.cost.teacher_flops
    )
    rows = dict(plan_lines(run_plan))
    assert rows["data"] == "digits: 1,167 images, 1,167 labelled; validation 130, test 500; resumes exactly"
    assert rows["classes"] == "10: 0, 1, 2, 3, 4, ..."
    assert rows["loss"] == "0.5 * labels + 0.5 * hard"
    assert rows["batch"] == "64 images per optimiser step"
    assert rows["never trained"] == "nothing"
    assert rows["steps"] == "24 (18 per epoch)"


def test_a_refused_student_is_reported_with_the_options_that_it_took_over() -> None:
    with pytest.raises(RecipeError) as error:
        distillkit.plan("digits", student="timm:vit_tiny_patch16_224")
    assert str(error.value) == (
        "'timm:vit_tiny_patch16_224' does not accept images of 8x8 pixels: the size is not a multiple of its 16x16 "
        "patches; 16 would be"
    )
    assert error.value.__notes__[0] == (
        "student.image_size = 8 of student 'deit-ti' is kept for 'timm:vit_tiny_patch16_224', which another plugin "
        "builds; change what does not suit it"
    )
    with pytest.raises(RecipeError) as error:
        distillkit.plan("digits", assignments=["student.patch=3"])
    assert not hasattr(error.value, "__notes__")


def test_the_options_of_a_loss_are_shown_with_its_weight(recipe_of: Any, teacher_run: str) -> None:
    losses = {
        "losses": [{"loss": "hard"}, {"loss": "soft", "reduction": "numel", "weight": 0.2}],
        "labels": {"weight": 0.5},
    }
    run_plan = plan(recipe_of(losses, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    lines = plan_lines(run_plan)
    place = [heading for heading, _ in lines].index("loss")
    assert lines[place : place + 2] == [
        ("loss", "0.5 * labels + 0.5 * hard + 0.2 * soft"),
        ("", "soft: tau 3, lambda 0.1, reduction numel"),
    ]
    assert [loss["options"] for loss in plan_as_dict(run_plan)["losses"]] == [
        {},
        {"tau": 3.0, "lambda": 0.1, "reduction": "numel", "top_k": None},
    ]


def test_options_for_an_unknown_loss_are_refused(recipe_of: Any) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        plan(recipe_of({"loss_options": {"sofy": {"tau": 2.0}}}), installed_plugins())
    assert str(caught.value).startswith("unknown loss 'sofy'; did you mean 'soft'? (known: ")


def test_each_plugin_is_looked_up_once(recipe_of: Any, teacher_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(HARD, {"teachers": [{"model": teacher_run, "name": "cnn"}], "trackers": ["metrics", "report"]})
    registry, looked_up = installed_plugins(), []

    def find(role: PluginRole, name: str) -> Plugin:
        looked_up.append((role, name))
        return PluginRegistry.find(registry, role, name)

    monkeypatch.setattr(registry, "find", find)
    run_plan = distillkit.plan(recipe, plugins=registry)
    expected = [
        ("student", "deit-ti"),
        ("teacher", teacher_run),
        ("loss", "hard"),
        ("tracker", "metrics"),
        ("tracker", "report"),
        ("dataset", "digits"),
    ]
    assert looked_up == expected
    build_session(run_plan)
    assert looked_up == expected


@pytest.mark.parametrize(
    ("teacher", "loss", "sentence"),
    [
        (
            "mugs-vits16",
            "attndistill",
            (
                "the weights of 'mugs-vits16' cannot be downloaded: its authors publish them at "
                "github.com/sail-sg/mugs; give a file with --teacher-weights"
            ),
        ),
        (
            "cifar-resnet20",
            "hard",
            "teacher 'cifar-resnet20' has no published weights to download; give --teacher-weights FILE",
        ),
    ],
)
def test_plan_and_run_give_the_same_error_for_teacher_weights_that_need_a_file(
    recipe_of: Any, tmp_path: Path, teacher: str, loss: str, sentence: str
) -> None:
    recipe = recipe_of({"losses": [{"loss": loss}]}, {"teachers": [{"model": teacher}]})
    with pytest.raises(WeightsError) as planned:
        plan(recipe, installed_plugins())
    with pytest.raises(WeightsError) as started:
        run(recipe, tmp_path / "run", installed_plugins())
    assert str(planned.value) == str(started.value) == sentence


def test_an_untrained_head_is_not_used_for_predictions(recipe_of: Any) -> None:
    run_plan = plan(recipe_of(), installed_plugins())
    assert run_plan.formula == "1 * labels"
    assert run_plan.student.head == "class"
    assert {"head_dist.weight", "head_dist.bias"} <= set(run_plan.student.untrained)
    assert "no loss term trains the distillation head, so predictions use the class head only" in run_plan.notes


def test_the_weight_of_a_loss_does_not_change_the_label_weight(recipe_of: Any, teacher_run: str) -> None:
    losses = {"losses": [{"loss": "hard", "weight": 0.9}]}
    run_plan = plan(recipe_of(losses, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    assert run_plan.formula == "0.5 * labels + 0.9 * hard"
    losses = {"losses": [{"loss": "soft", "lambda": 0.9}]}
    run_plan = plan(recipe_of(losses, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    assert run_plan.formula == "0.1 * labels + 0.9 * soft"


def test_losses_that_disagree_on_the_labels(recipe_of: Any, teacher_run: str) -> None:
    losses = {"losses": [{"loss": "hard"}, {"loss": "soft"}]}
    with pytest.raises(RecipeError) as caught:
        plan(recipe_of(losses, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    assert str(caught.value) == (
        "losses hard and soft have different default label weights (0.5 and 0.9); "
        "choose one with --set labels.weight=0.5"
    )


def test_a_loss_without_a_teacher(recipe_of: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(recipe_of(HARD), installed_plugins())
    assert str(caught.value) == "loss 'hard' needs a teacher, but the recipe has none; give --teacher"


def test_unlabelled_images_are_dropped_where_no_loss_reads_a_teacher(recipe_of: Any, teacher_run: str) -> None:
    few = {"data": {"labels": 100}}
    run_plan = plan(recipe_of(few), installed_plugins())
    assert len(run_plan.datasets.train) == 100
    assert (
        "labels: 100 kept, balanced over the classes; the other 1,067 images are not used, because no loss reads a "
        "teacher"
    ) in run_plan.notes
    run_plan = plan(recipe_of(few, SOFT, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    assert len(run_plan.datasets.train) == 1167
    assert int(run_plan.datasets.labelled.sum()) == 100


def test_without_labels_the_student_has_the_teachers_classes(
    recipe_of: Any, teacher_run: str, unlabelled: Path
) -> None:
    data = {"data": {"train": None, "unlabeled": str(unlabelled)}}
    run_plan = plan(recipe_of(HARD, data, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    assert run_plan.classes == 10
    assert run_plan.class_names == tuple("0123456789")
    assert run_plan.formula == "0.5 * hard"
    assert run_plan.student.head == "distill"
    assert "no loss term trains the class head, so predictions use the distillation head only" in run_plan.notes


def test_without_labels_and_teacher_there_are_no_classes(recipe_of: Any, unlabelled: Path) -> None:
    with pytest.raises(DataError) as caught:
        plan(recipe_of({"data": {"train": None, "unlabeled": str(unlabelled)}}), installed_plugins())
    assert str(caught.value) == (
        "no image has a label and no loss reads a teacher's logits, so the student has no classes; "
        "give labels, or distil with `distillkit run --teacher NAME --loss NAME`"
    )


@pytest.mark.parametrize("loss", ["hard", "attndistill"])
def test_without_labels_a_loss_needs_its_teacher(recipe_of: Any, unlabelled: Path, loss: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(
            recipe_of({"losses": [{"loss": loss}], "data": {"train": None, "unlabeled": str(unlabelled)}}),
            installed_plugins(),
        )
    assert str(caught.value) == f"loss '{loss}' needs a teacher, but the recipe has none; give --teacher"


def test_matching_attention_only_without_labels_is_refused(recipe_of: Any, unlabelled: Path) -> None:
    attention = {"data": {"train": None, "unlabeled": str(unlabelled)}, "losses": [{"loss": "advit-l1"}]}
    dino = {"teachers": [{"model": "dino-vits16", "weights": "none"}]}
    with pytest.raises(DataError) as caught:
        plan(recipe_of(attention, dino), installed_plugins())
    assert str(caught.value) == (
        "no image has a label, and loss 'advit-l1' matches attention maps only, so no head would be trained; "
        "give labels, add --loss hard or --loss attndistill, or set labels.weight=0"
    )
    run_plan = plan(recipe_of(attention, dino, {"labels": {"weight": 0.0}}), installed_plugins())
    assert run_plan.formula == "1 * advit-l1"


def test_random_weights_are_noted_where_the_recipe_is_for_a_trained_student(recipe_of: Any, tmp_path: Path) -> None:
    note = (
        "this recipe is for a student that is already trained, but this one starts from random weights; "
        "give `run --from RUN`, or --student-weights (finetune: --weights)"
    )
    for_trained = {"about": {"needs_trained_student": True}}
    assert note in plan(recipe_of(for_trained), installed_plugins()).notes
    run(recipe_of({"training": {"steps": 1}}), tmp_path / "run", installed_plugins())
    trained = {"student": {"weights": str(tmp_path / "run")}}
    assert note not in plan(recipe_of(for_trained, trained), installed_plugins()).notes


def test_an_optimizer_that_timm_does_not_have_is_refused(recipe_of: Any) -> None:
    with pytest.raises(RecipeError, match=r"^optimizer\.name: unknown optimizer 'adamx'; did you mean 'adam"):
        plan(recipe_of({"optimizer": {"name": "adamx"}}), installed_plugins())


def test_regnety16gf_on_the_default_data_is_refused_with_all_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillkit.models.hub.is_reachable", lambda host: False)
    recipe = Recipe.model_validate(HARD | {"teachers": [{"model": "regnety16gf"}]})
    with pytest.raises(ClassSpaceError) as caught:
        plan(recipe, installed_plugins())
    assert str(caught.value) == (
        "teacher 'regnety16gf' knows 1,000 ImageNet classes and data 'digits' has 10 classes; "
        "the teacher does not know class '0'; give --data a folder with class names of the teacher, "
        "as WordNet IDs or words, "
        "use --unlabeled DIR without labels to train a student for the teacher's classes, "
        "or fine-tune the teacher on this data (distillkit finetune regnety16gf --data DIR) "
        "and use --teacher run:DIR; also, the published weights of 'regnety_160.deit_in1k' are not in the local "
        "cache and huggingface.co cannot be reached: give --teacher-weights FILE"
    )


def test_a_loss_that_does_not_run_on_the_meta_device_is_probed_on_the_cpu(
    recipe_of: Any, teacher_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """multi_margin_loss has no backward on the meta device."""
    from torch.nn import functional

    from distillkit_plugins.losses.hard import HardDistillation

    def forward(self: Any, student: Any, target: Any, batch: Any) -> Any:
        return {"hard": functional.multi_margin_loss(student.distill_logits, target["class"], reduction="none")}

    monkeypatch.setattr(HardDistillation, "forward", forward)
    run_plan = plan(recipe_of(HARD, {"teachers": [{"model": teacher_run}]}), installed_plugins())
    assert run_plan.student.untrained == ()
    assert run_plan.cost.student_flops > 0


def test_settings_without_effect_are_noted(recipe_of: Any, teacher_run: str, unlabelled: Path) -> None:
    hard = {"teachers": [{"model": teacher_run}], "losses": [{"loss": "hard"}]}
    run_plan = plan(recipe_of(hard, {"data": {"train": None, "unlabeled": str(unlabelled)}}), installed_plugins())
    assert "no image has a label, so the label term (weight 0.5) is dropped" in run_plan.notes
    run_plan = plan(recipe_of({"data": {"labeled_fraction": 0.5}}), installed_plugins())
    assert "every image has a label, so data.labeled_fraction has no effect" in run_plan.notes
    run_plan = plan(recipe_of({"training": {"steps": 5}}, {"schedule": {"warmup_epochs": 1.0}}), installed_plugins())
    assert "warm-up covers all steps; lower schedule.warmup_epochs or train longer" in run_plan.notes


def test_a_batch_larger_than_the_training_set_is_shown_as_the_whole_set(recipe_of: Any) -> None:
    recipe = recipe_of({"data": {"labels": 100}}, {"training": {"batch_size": 256, "steps": 1}})
    run_plan = plan(recipe, installed_plugins())
    rows = dict(plan_lines(run_plan, matmul_flops_per_s=1e15))
    assert rows["batch"] == "100 images per optimiser step, the whole training set (training.batch_size is 256)"
    assert rows["time"] == "at least 1 second (a matrix product reaches 1,000,000 GFLOP/s here)"
    assert rows["learning rate"].endswith(" after 1 step of warm-up, cosine")


def test_names_are_resolved_before_data_is_opened(recipe_of: Any) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        plan(recipe_of({"teachers": [{"model": "regnet16gf"}]}, {"data": {"train": "nowhere"}}), installed_plugins())
    assert str(caught.value).startswith("unknown teacher 'regnet16gf'; did you mean 'regnety16gf'? (known: ")


def test_a_teacher_that_no_loss_uses(recipe_of: Any, teacher_run: str) -> None:
    teachers = {"teachers": [{"model": teacher_run, "name": "cnn"}]}
    with pytest.raises(RecipeError) as caught:
        plan(recipe_of(teachers), installed_plugins())
    assert str(caught.value) == (
        "teacher 'cnn' is given, but no loss uses it; "
        "add --loss hard or --loss soft, or give --loss ce to train on labels only"
    )
    run_plan = plan(recipe_of(teachers, {"losses": [{"loss": "ce"}]}), installed_plugins())
    assert run_plan.formula == "1 * labels"
    assert run_plan.cost.teacher_flops == 0
