"""The named recipes have the settings of their sources."""

import pytest

from distillkit.recipe.files import dump, load_recipe, named_recipes
from distillkit.recipe.image_tables import Augment, Mixing
from distillkit.recipe.schema import Evaluation, Labels, LossEntry, Optimizer, Schedule, TeacherEntry, Training

NAMES = [
    "advit-s-cifar10",
    "advit-ti-cifar10",
    "attndistill-dino-vits8-vits16",
    "attndistill-mugs-vitb16-vits16",
    "attndistill-mugs-vits16-vitt16",
    "attndistill-subset-vitt16",
    "attndistill-subset-vitt16-6heads",
    "attndistill-subset-vitt16-8layers",
    "attndistill-subset-vitt32",
    "attndistill-subset-vitt32-8layers",
    "cifar10-few-labels",
    "default",
    "deit-384",
    "deit-b",
    "deit-s",
    "deit-ti",
    "digits",
    "features-dinov2-vitb14-mobilenetv4",
    "features-dinov2-vits14-resnet18",
    "features-dinov3-vitb16-vit-ti",
    "features-two-teachers",
    "imagenette",
    "transfer-cars",
    "transfer-cifar10",
    "transfer-cifar100",
    "transfer-flowers102",
    "transfer-inat18",
    "transfer-inat19",
]


def test_they_are_listed_by_name():
    assert [recipe.name for recipe in named_recipes()] == NAMES


@pytest.mark.parametrize("recipe", named_recipes(), ids=lambda recipe: recipe.name)
def test_each_has_a_summary_a_source_and_a_cost(recipe):
    assert recipe.summary.endswith(".")
    assert recipe.source
    assert recipe.cost
    assert recipe.path.is_file()


CHEAPER = {
    "features-dinov2-vitb14-mobilenetv4": {"anchors": 4},
    "features-two-teachers": {"normalise": "layernorm"},
}
"""Options of losses that a smoke run changes: their own would need hundreds of images before the first step."""


@pytest.mark.parametrize("name", NAMES)
def test_each_can_be_shortened(name):
    full, short = load_recipe(name), load_recipe(name, smoke=True)
    assert short.training.epochs is None
    assert short.training.steps <= 4
    assert short.training.batch_size <= full.training.batch_size
    assert short.teachers == full.teachers
    changes = CHEAPER.get(name, {})
    assert short.losses == tuple(
        loss.model_copy(update={key: value for key, value in changes.items() if key in loss.options})
        for loss in full.losses
    )
    # A smoke run does not load pretrained weights, so it needs no network.
    weights = "none" if full.student.weights == "pretrained" else full.student.weights
    assert short.student == full.student.model_copy(update={"weights": weights})


@pytest.mark.parametrize("size", ["ti", "s", "b"])
def test_deit_is_table_9_of_the_paper(size):
    """Touvron et al. 2021, arXiv:2012.12877, Table 9, row DeiT; the authors' main.py for what the table leaves open."""
    recipe = load_recipe(f"deit-{size}")
    assert recipe.student.model == f"deit-{size}"
    assert recipe.student.options == {"drop_path": 0.1}
    assert recipe.student.weights is None
    assert recipe.teachers == (TeacherEntry(model="regnety16gf"),)
    assert recipe.losses == (LossEntry(loss="hard"),)
    assert recipe.labels == Labels(weight=None, smoothing=0.1)
    assert recipe.training == Training(epochs=300, batch_size=1024, clip=None, ema=None)
    assert recipe.optimizer == Optimizer(name="adamw", lr=5e-4, lr_base_batch=512, weight_decay=0.05, eps=1e-8)
    assert recipe.schedule == Schedule(name="cosine", warmup_epochs=5.0, warmup_lr=1e-6, min_lr=1e-5)
    assert recipe.augment == Augment(
        crop="resized",
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        auto="rand-m9-mstd0.5-inc1",
        color_jitter=0.0,
        erasing=0.25,
        interpolation="bicubic",
        repeats=3,
        eval_crop=0.875,
    )
    assert recipe.mixing == Mixing(mixup=0.8, cutmix=1.0, probability=1.0, switch=0.5, mode="pair")
    assert recipe.evaluation == Evaluation(head="fused", fusion="logits")


@pytest.mark.parametrize("name", ["deit-ti", "deit-s", "deit-b", "deit-384"])
def test_soft_distillation_of_the_deit_recipes_has_the_reduction_of_the_authors(name):
    """facebookresearch/deit losses.py divides the sum by outputs_kd.numel()."""
    assert load_recipe(name, loss="soft").losses == (LossEntry(loss="soft", reduction="numel"),)
    assert load_recipe(name, loss="soft:reduction=batchmean,tau=1").losses[0].options == {
        "reduction": "batchmean",
        "tau": 1,
    }
    assert load_recipe("default", loss="soft").losses == (LossEntry(loss="soft"),)


def test_digits_are_not_augmented():
    recipe = load_recipe("digits")
    assert recipe.augment == Augment(crop="none", flip=0.0, eval_crop=1.0)
    assert recipe.student.options == {"image_size": 8, "patch": 4, "width": 64, "depth": 4, "heads": 4}
    assert recipe.training == Training(epochs=30, batch_size=64, threads=1, log_every=20)
    assert recipe.optimizer == Optimizer(name="adamw", lr=1e-3, weight_decay=0.05)
    assert (recipe.teachers, recipe.losses) == ((), ())


def test_cifar10_with_few_labels():
    recipe = load_recipe("cifar10-few-labels")
    assert recipe.data.labels == 500
    assert recipe.augment == Augment(crop="padded", padding=4, flip=0.5, eval_crop=1.0)
    assert recipe.student.options == {"image_size": 32, "patch": 4, "width": 96, "depth": 4, "heads": 3}
    assert recipe.training == Training(epochs=20, batch_size=128)
    assert recipe.optimizer == Optimizer(name="adamw", lr=1e-3, weight_decay=0.05)
    assert (recipe.teachers, recipe.losses) == ((), ())


def test_the_default_fits_pretrained_weights_and_needs_no_teacher():
    recipe = load_recipe("default")
    assert recipe.optimizer == Optimizer(name="adamw", lr=2e-4, weight_decay=0.05)
    assert recipe.training == Training(epochs=30, batch_size=64)
    assert (recipe.teachers, recipe.losses) == ((), ())


def test_deit_at_384_px_is_the_authors_command_line():
    """README_deit.md: lr 5e-6 at a batch of 512, weight decay 1e-8, 30 epochs, minimum rate 5e-6; the rest: main.py."""
    recipe = load_recipe("deit-384")
    assert recipe.student.options == {"image_size": 384, "drop_path": 0.0}
    assert recipe.training == Training(epochs=30, batch_size=512)
    assert recipe.optimizer == Optimizer(name="adamw", lr=5e-6, lr_base_batch=512, weight_decay=1e-8, eps=1e-8)
    assert recipe.schedule == Schedule(name="cosine", warmup_epochs=5.0, warmup_lr=1e-6, min_lr=5e-6)


@pytest.mark.parametrize("size", ["ti", "s", "b"])
def test_deit_at_384_px_keeps_everything_else_of_its_run(size, tmp_path):
    trained = load_recipe(f"deit-{size}", **{"data.train": "imagenet"})
    (tmp_path / "recipe.toml").write_text(dump(trained))
    (tmp_path / "result.json").write_text("{}")
    recipe, tuning = load_recipe("deit-384", from_run=tmp_path), load_recipe("deit-384")
    assert recipe.student.model_dump() == {
        "model": f"deit-{size}",
        "weights": str(tmp_path),
        "image_size": 384,
        "drop_path": 0.0,
    }
    changed = ("about", "student", "training", "optimizer", "schedule")
    assert {key: value for key, value in recipe if key not in changed} == {
        key: value for key, value in trained if key not in changed
    }
    for table in ("about", "training", "optimizer", "schedule"):
        assert getattr(recipe, table) == getattr(tuning, table)
