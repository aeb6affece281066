"""Every built-in loss, student and teacher passes the conformance suite, in a small geometry."""

import pytest

from distillkit import ModelRequest
from distillkit.models import save_student
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import Pair, SlowListingWarning, check_loss, check_student, check_teacher, vit

pytestmark = pytest.mark.filterwarnings(f"error::{SlowListingWarning.__module__}.{SlowListingWarning.__qualname__}")

TINY = {"image_size": 16, "patch": 4, "width": 24, "depth": 3, "heads": 2}
LOSSES = [
    ("ce", {}),
    ("hard", {}),
    ("soft", {}),
    ("soft", {"tau": 1.0, "lambda": 0.5, "reduction": "numel"}),
    ("advit-kl", {}),
    ("advit-kl", {"form": "direct", "tau": 2.0, "interpolation": "area"}),
    ("advit-l1", {}),
    ("advit-l1", {"heads": "group"}),
    ("advit-l2", {"heads": "logsum"}),
    ("attndistill", {}),
    ("attndistill", {"temperature": "heads", "distance": "cosine", "interpolation": "area", "projector_depth": 2}),
    ("attndistill", {"attention_weight": 0.0, "projector_depth": 1, "projector_norms": "none"}),
    ("attndistill", {"align_weight": 0.0}),
    ("features", {}),
    ("features", {"normalise": "phi-s", "statistics_images": 24, "resample": "teacher", "layers": [-1, 0]}),
    ("similarity", {"resample": "teacher"}),
    ("anchors", {"anchors": 8}),
]
STUDENTS = [
    ("deit-ti", TINY),
    ("deit-ti", {**TINY, "image_size": [16, 24], "drop_path": 0.2, "dropout": 0.1}),
    ("vit-ti", TINY),
    ("vit-ti", {**TINY, "drop_path": 0.2}),
    ("vit-ti", {**TINY, "position": "sincos"}),
    ("small-cnn", {"width": 4, "image_size": 8}),
    ("small-cnn", {"width": 4, "image_size": [9, 12]}),
    ("timm:test_resnet", {"image_size": 64}),
    ("torchvision:shufflenet_v2_x0_5", {"image_size": 32}),
    pytest.param("timm:levit_128s", {}, marks=pytest.mark.slow),
]
OF_OTHERS = ["torchvision:shufflenet_v2_x0_5", "module:Net"]
"""The second is checked in tests/test_given_student.py: it has to be given a network."""
OTHER_SIZES = ["deit-s", "deit-b", "vit-s", "vit-b"]
TEACHERS = ["cifar-resnet20", "timm:test_resnet", "timm:test_vit"]


@pytest.mark.parametrize(("name", "options"), LOSSES)
def test_loss(name, options):
    check_loss(name, options)


@pytest.mark.parametrize("name", ["advit-kl", "advit-l1", "advit-l2"])
def test_loss_with_grouped_heads(name):
    student = vit("paper-small-vit", layers=4, width=6, heads=3, grid=(2, 5))
    teacher = vit("paper-large-vit", layers=6, width=8, heads=6, grid=(3, 7))
    check_loss(name, {"heads": "group"}, pairs=[Pair("ViT from a ViT with twice as many heads", student, teacher)])


@pytest.mark.parametrize(("name", "options"), STUDENTS)
def test_student(name, options):
    check_student(name, options, classes=7)


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_student_of_another_size(name):
    check_student(name, TINY, classes=7, backend=None)


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher(name):
    check_teacher(name)


def test_teacher_from_a_run(tmp_path):
    plugins = installed_plugins()
    request = ModelRequest("deit-ti", None, plugins.find("student", "deit-ti").options(TINY), classes=7)
    model = plugins.find("student", "deit-ti").call("build", request)
    save_student(tmp_path, model, request, Answer("fused", "softmax"))
    check_teacher(f"run:{tmp_path}")


def test_every_factory_is_checked():
    """Of the names that share a factory and differ in their weights (`regnety16gf`, `vit-b`), one is checked."""
    checked = {
        "loss": [name for name, _ in LOSSES],
        "student": [*OTHER_SIZES, "deit-ti", "vit-ti", "small-cnn", "timm:test_resnet", *OF_OTHERS],
        "teacher": [*TEACHERS, "run:directory"],
    }
    plugins = installed_plugins()
    for role, names in checked.items():
        registered = {
            plugin.spec.factory for plugin in plugins.listing(role) if plugin.owner.distribution == "distillkit"
        }
        assert {plugins.find(role, name).spec.factory for name in names} == registered
