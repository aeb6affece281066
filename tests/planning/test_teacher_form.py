"""The rule for the form and precision of a teacher."""

from dataclasses import replace

import pytest
import torch

from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.planning import teacher_form
from distillkit.planning.render import plan_lines
from distillkit.planning.teacher_form import precision_notes, teacher_images, teacher_precision, with_form
from distillkit.planning.unused_settings import unused_settings
from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import plan

CPU = torch.device("cpu")
LARGE = 32_000_000_000
"""FLOPs of a RegNetY-16GF, whose limits are then 313 and 6,250 images."""


@pytest.fixture
def planned(recipe_of, teacher_run):
    return plan(recipe_of({"teachers": [{"model": teacher_run}], "losses": [{"loss": "hard"}]}), installed_plugins())


@pytest.fixture
def form_of(planned, monkeypatch):
    """The form of a teacher of a kind, for a number of images, on a machine."""

    def find(kind, images, device="cpu", *, bf16=False, compiled=False, **entry):
        monkeypatch.setattr(teacher_form, "computes_bf16", lambda _device: bf16)
        monkeypatch.setattr(teacher_form, "pick_device", lambda _name: torch.device(device))
        (teacher,) = planned.teachers.values()
        teacher = replace(
            teacher, native=replace(teacher.native, kind=kind), entry=teacher.entry.model_copy(update=entry)
        )
        training = planned.recipe.training.model_copy(update={"compile": compiled})
        form = with_form(teacher, planned.recipe.model_copy(update={"training": training}), LARGE, images).form
        return None if form is None else str(form)

    return find


@pytest.mark.parametrize(
    ("kind", "images", "bf16", "form"),
    [
        ("cnn", 312, True, "plain"),
        ("cnn", 313, False, "channels-last"),
        ("cnn", 6250, False, "channels-last"),
        ("cnn", 6249, True, "channels-last+half-weights"),
        ("cnn", 6250, True, "channels-last+half-weights+compiled"),
        ("vit", 6249, False, "plain"),
        ("vit", 6250, False, "compiled"),
        ("vit", 6249, True, "written-attention+half-weights"),
        ("vit", 6250, True, "written-attention+half-weights+compiled"),
        ("other", 6250, True, "half-weights+compiled"),
    ],
)
def test_on_a_cpu(form_of, kind, images, bf16, form):
    assert form_of(kind, images, bf16=bf16) == form


@pytest.mark.parametrize(
    ("kind", "precision", "form"),
    [("cnn", "bf16", "channels-last"), ("cnn", "fp32", "plain"), ("vit", "bf16", "plain")],
)
def test_on_a_gpu(form_of, kind, precision, form):
    assert form_of(kind, 10**9, "cuda", precision=precision) == form


def test_what_the_recipe_says_comes_first(form_of):
    assert form_of("cnn", 10**9, form="plain", bf16=True) == "plain"
    assert form_of("cnn", 1, form="written-attention") == "written-attention"
    assert form_of("cnn", 1, form="measured") is None
    assert form_of("cnn", 1, compiled=True) == "compiled"
    assert form_of("cnn", 1, compiled=True, form="plain") == "plain"
    assert form_of("cnn", 10**9, sharded=True, compiled=True) == "plain"
    assert form_of("cnn", 10**9, weights="bank") == "plain"


@pytest.mark.parametrize(
    ("precision", "flops", "bf16", "expected"),
    [
        ("auto", LARGE, True, torch.bfloat16),
        ("auto", LARGE, False, torch.float32),
        ("auto", 10**8, True, torch.float32),
        ("fp32", LARGE, True, torch.float32),
        ("bf16", 1, False, torch.bfloat16),
    ],
)
def test_precision(planned, monkeypatch, precision, flops, bf16, expected):
    monkeypatch.setattr(teacher_form, "computes_bf16", lambda _device: bf16)
    (teacher,) = planned.teachers.values()
    entry = teacher.entry.model_copy(update={"precision": precision})
    assert teacher_precision(replace(teacher, flops=flops, entry=entry), CPU) is expected


def test_images_of_the_teacher(recipe_of):
    recipe = recipe_of()
    counts = {"steps": 10, "per_epoch": 3, "samples": 8}
    assert teacher_images(recipe, **counts) == 80
    with_views = recipe_of({"data": {"views": 2}})
    assert teacher_images(with_views, **counts) == 80, "without a bank every image is computed"
    assert teacher_images(with_views.model_copy(update={"bank": "bank"}), **counts) == 48


def test_a_plan_shows_the_form(planned):
    def shown(form, entry_form):
        (teacher,) = planned.teachers.values()
        entry = teacher.entry.model_copy(update={"form": entry_form})
        changed = replace(planned, teachers={entry.name: replace(teacher, form=form, entry=entry)})
        return [text for _, text in plan_lines(changed) if text.startswith("computes ")]

    last = TeacherForm(channels_last=True)
    assert shown(PLAIN, "auto") == []
    assert shown(last, "channels-last") == ["computes as channels-last; the run compares it with the plain form"]
    (line,) = shown(last, "auto")
    assert line == (
        "computes as channels-last, chosen by machine, model and length of the run; the run compares it with the plain "
        "form"
    )
    assert shown(None, "measured") == [
        "computes in the form that is fastest when the run starts, so two runs may differ in the last bits"
    ]


def test_a_sharded_teacher_has_no_other_form(planned):
    (entry,) = planned.recipe.teachers
    entry = entry.model_copy(update={"name": "cnn", "sharded": True, "form": "compiled"})
    recipe = planned.recipe.model_copy(update={"teachers": (entry,)})
    assert list(unused_settings(recipe, planned.student.spec)) == [
        "teacher 'cnn' is sharded, which has the plain form only, so form has no effect"
    ]


UNUSED = (
    "this CPU has bf16 instructions, and the student trains in float32; `distillkit plan --time` measures what "
    "training.precision=bf16 gains"
)
EMULATED = "this CPU has no bf16 instructions, so training.precision and teachers.cnn.precision = bf16 saves no time"


@pytest.mark.parametrize(
    ("training", "bf16", "flops", "notes"),
    [
        ("auto", True, 1e13, [UNUSED]),
        ("auto", True, 1e12, []),
        ("fp32", True, 1e13, []),
        ("bf16", True, 1e13, []),
        ("bf16", False, 1.0, [EMULATED]),
    ],
)
def test_notes(recipe_of, planned, monkeypatch, training, bf16, flops, notes):  # noqa: PLR0917 - a table
    monkeypatch.setattr(teacher_form, "computes_bf16", lambda _device: bf16)
    (teacher,) = planned.teachers.values()
    teacher = replace(teacher, entry=teacher.entry.model_copy(update={"precision": "bf16"}))
    recipe = recipe_of({"training": {"precision": training}})
    assert list(precision_notes(recipe, {"cnn": teacher}, student_flops=flops)) == notes
