"""The recipes of ADViT, AttnDistill and fine-tuning on other data sets have the settings of their sources."""

import pytest

from distillkit.recipe.files import load_recipe
from distillkit.recipe.image_tables import Augment, Mixing
from distillkit.recipe.schema import Labels, LossEntry, Optimizer, Schedule, TeacherEntry, Training

NO_MIXING = Mixing()
DEIT_MIXING = Mixing(mixup=0.8, cutmix=1.0, probability=1.0, switch=0.5, mode="pair")
DEIT_SCHEDULE = Schedule(name="cosine", warmup_epochs=5.0, warmup_lr=1e-6, min_lr=1e-5)


@pytest.mark.parametrize(("size", "timm_size"), [("ti", "tiny"), ("s", "small")])
def test_advit_is_section_4_of_the_paper(size, timm_size):
    """Tanaka et al., 4.1.1 to 4.1.3; batch, rate, decay and schedule, which it leaves open, are DeiT's."""
    recipe = load_recipe(f"advit-{size}-cifar10")
    assert recipe.student.model == f"timm:vit_{timm_size}_patch16_224.augreg_in21k_ft_in1k"
    assert (recipe.student.weights, recipe.student.options) == ("pretrained", {})
    assert recipe.teachers == (TeacherEntry(model="run:runs/cifar10-vit-b"),)
    assert recipe.losses == (LossEntry(loss="advit-l1"),)
    assert (recipe.labels, recipe.mixing) == (Labels(weight=None, smoothing=0.0), NO_MIXING)
    assert recipe.augment == Augment(crop="resized", scale=(0.08, 1.0), flip=0.5, auto="", erasing=0.25, eval_crop=1.0)
    assert recipe.training == Training(epochs=300, batch_size=256)
    assert recipe.optimizer == Optimizer(name="adamw", lr=5e-4, lr_base_batch=512, weight_decay=0.05)
    assert recipe.schedule == DEIT_SCHEDULE
    assert recipe.data.validation == 0


@pytest.mark.parametrize(
    ("name", "teacher", "student", "options", "epochs"),
    [
        ("mugs-vits16-vitt16", "mugs-vits16", "vit-ti", {}, 500),
        ("mugs-vitb16-vits16", "mugs-vitb16", "vit-s", {}, 800),
        ("dino-vits8-vits16", "dino-vits8", "vit-s", {}, 800),
        ("subset-vitt16", "mae-vits16", "vit-ti", {"position": "sincos"}, 3200),
        ("subset-vitt16-6heads", "mae-vits16", "vit-ti", {"position": "sincos", "heads": 6}, 3200),
        ("subset-vitt16-8layers", "mae-vits16", "vit-ti", {"position": "sincos", "depth": 8}, 3200),
        ("subset-vitt32", "mae-vits16", "vit-ti", {"position": "sincos", "patch": 32, "image_size": 256}, 3200),
        (
            "subset-vitt32-8layers",
            "mae-vits16",
            "vit-ti",
            {"position": "sincos", "patch": 32, "image_size": 256, "depth": 8},
            3200,
        ),
    ],
)
def test_attndistill_is_the_table_of_the_poster(name, teacher, student, options, epochs):
    """Wang et al. 2022, the poster's tables of networks and settings; weights and temperature of the scripts."""
    recipe = load_recipe(f"attndistill-{name}")
    assert (recipe.student.model, recipe.student.options, recipe.student.weights) == (student, options, None)
    assert recipe.teachers == (TeacherEntry(model=teacher),)
    (loss,) = recipe.losses
    assert (loss.loss, loss.weight) == ("attndistill", None)
    assert loss.options == {
        "align_weight": 1.0,
        "attention_weight": 0.1,
        "distance": "mse",
        "temperature": 10.0,
        "projector_depth": 4,
    }
    assert recipe.training == Training(epochs=epochs, batch_size=4096)
    assert recipe.optimizer == Optimizer(
        name="adamw", lr=1.5e-4, lr_base_batch=256, weight_decay=0.05, betas=(0.9, 0.95)
    )
    assert recipe.schedule == Schedule(
        name="cosine", warmup_epochs=40.0, warmup_lr=0.0, cosine_after_warmup=True, min_lr=0.0
    )
    assert recipe.augment == Augment(crop="resized", scale=(0.2, 1.0), flip=0.5, auto="", interpolation="bicubic")
    assert recipe.mixing == NO_MIXING


LIGHTLY = {
    "augment": Augment(crop="resized", scale=(0.14, 1.0), flip=0.5, color_jitter=0.4),
    "mixing": Mixing(mixup=1.0),  # the ratio's distribution, Beta(1, 1), is uniform
    "training": Training(epochs=100, batch_size=256, clip=1.0),
    "optimizer": Optimizer(name="adamw", lr=2e-4, weight_decay=1e-6),
    "schedule": Schedule(name="cosine", warmup_epochs=10.0, cosine_after_warmup=True),
}
"""Method `distillation` of LightlyTrain for a CNN: AdamW, 5e-4 * sqrt(256 / 1536) = 2.04e-4."""
OF_DEIT = {
    "augment": Augment(
        crop="resized",
        flip=0.5,
        auto="rand-m9-mstd0.5-inc1",
        erasing=0.25,
        interpolation="bicubic",
        repeats=3,
        eval_crop=0.875,
    ),
    "mixing": NO_MIXING,
    "training": Training(epochs=300, batch_size=512),
    "optimizer": Optimizer(name="adamw", lr=5e-4, lr_base_batch=512, weight_decay=0.05, eps=1e-8),
    "schedule": DEIT_SCHEDULE,
}
"""The defaults of Proteus' main.py, which are those of DeiT's, and 4 * 128 images as in run_pretrain.sh."""
OF_UNIC = {
    "augment": Augment(crop="resized", flip=0.5, color_jitter=0.4, interpolation="bicubic"),
    "mixing": NO_MIXING,
    "training": Training(epochs=200, batch_size=512),
    "optimizer": Optimizer(name="adamw", lr=3e-4, lr_base_batch=256, weight_decay=0.03, betas=(0.9, 0.99), eps=1e-8),
    "schedule": Schedule(name="cosine", warmup_epochs=10.0, warmup_lr=0.0, cosine_after_warmup=True, min_lr=1e-6),
}
"""The defaults of UNIC's main_unic.py, for 4 * 128 images."""
WEI = {"distance": "smooth-l1", "beta": 2.0, "normalise": "layernorm", "projector": "linear"}
PLAIN = {"distance": "mse", "normalise": "none", "projector": "ln-linear"}
STANDARDISED = {"distance": "smooth-l1", "beta": 1.0, "normalise": "standardise", "projector": "mlp2"}
AT_007 = {"temperature": 0.07, "projector": "linear"}


@pytest.mark.parametrize(
    ("name", "student", "losses", "settings"),
    [
        ("dinov2-vits14-resnet18", ("timm:resnet18", {}), [("features", WEI)], LIGHTLY),
        (
            "dinov2-vitb14-mobilenetv4",
            ("timm:mobilenetv4_conv_medium", {"image_size": 224}),
            [("anchors", {"anchors": 512, **AT_007}), ("similarity", AT_007)],
            LIGHTLY,
        ),
        ("dinov3-vitb16-vit-ti", ("vit-ti", {"drop_path": 0.1}), [("features", PLAIN)], OF_DEIT),
        ("two-teachers", ("vit-s", {"drop_path": 0.1}), [("features", STANDARDISED)] * 2, OF_UNIC),
    ],
)
def test_recipes_on_features_have_the_settings_of_their_sources(name, student, losses, settings):
    """LightlyTrain's methods; Wei et al. 2022, arXiv:2205.14141; the code of Proteus and of UNIC."""
    recipe = load_recipe(f"features-{name}")
    assert (recipe.student.model, recipe.student.options, recipe.student.weights) == (*student, None)
    assert [(loss.loss, loss.options) for loss in recipe.losses] == losses
    assert {key: getattr(recipe, key) for key in settings} == settings
    assert recipe.labels == Labels()


SGD = Optimizer(name="sgd", lr=0.01, lr_base_batch=768, weight_decay=1e-4, momentum=0.9)


def adamw(lr: float, base: int = 768) -> Optimizer:
    return Optimizer(name="adamw", lr=lr, lr_base_batch=base, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8)


@pytest.mark.parametrize(
    ("data", "epochs", "erasing", "optimizer"),
    [
        ("cifar10", 1000, 0.0, SGD),
        ("cars", 1000, 0.0, SGD),
        ("cifar100", 1000, 0.0, adamw(5e-6)),
        ("flowers102", 1000, 0.1, adamw(7.5e-5, 512)),
        ("inat18", 360, 0.1, adamw(7.5e-5)),
        ("inat19", 360, 0.1, adamw(7.5e-5)),
    ],
)
def test_transfer_recipes_have_the_settings_of_the_authors(data, epochs, erasing, optimizer):
    """DeiT's author in issues 45 and 105 of deit and 144 of dino, Mugs' script for flowers; Table 9 for the rest."""
    recipe = load_recipe(f"transfer-{data}")
    assert recipe.training == Training(epochs=epochs, batch_size=768)
    assert recipe.optimizer == optimizer
    assert recipe.schedule == DEIT_SCHEDULE
    assert recipe.labels == Labels(weight=None, smoothing=0.1)
    assert recipe.mixing == DEIT_MIXING
    assert recipe.augment == Augment(
        crop="resized",
        scale=(0.08, 1.0),
        flip=0.5,
        auto="rand-m9-mstd0.5-inc1",
        erasing=erasing,
        interpolation="bicubic",
        repeats=3,
        eval_crop=0.875,
    )
    assert recipe.data.validation == 0


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19"])
def test_transfer_recipes_accept_any_student_and_teacher(data):
    plain = load_recipe(f"transfer-{data}")
    stated = {"drop_path"} if data in {"cifar10", "cars"} else set()
    assert (plain.student.model_fields_set, plain.teachers, plain.losses) == (stated, (), ())
    taught = load_recipe(
        f"transfer-{data}",
        **{
            "student.model": "timm:deit_base_patch16_224",
            "teachers": [{"model": "regnety16gf"}],
            "losses": [{"loss": "hard"}],
        },
        assignments=["student.drop_path=0.1"],
    )
    assert (taught.student.options, taught.optimizer) == ({"drop_path": 0.1}, plain.optimizer)
