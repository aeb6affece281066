"""Benchmarks of a tiny teacher and student, in this process."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import psutil
import pytest
import torch

from distillkit.benchmark import rounds
from distillkit.benchmark.bench import bench
from distillkit.benchmark.generated_images import GeneratedImages, generated_data
from distillkit.benchmark.plain_arms import distillation
from distillkit.benchmark.rounds import MeasuredArm, measure
from distillkit.benchmark.settings import ARMS, BenchSettings
from distillkit.benchmark.subject import open_subject
from distillkit.contracts.loss import BatchInfo
from distillkit.contracts.model import Outputs
from distillkit.errors import UnavailableError, UserError
from distillkit.training.task import batch_averages, label_cross_entropy

TINY = {"teacher": "timm:test_resnet", "batch": 2, "image_size": 32, "device": "cpu", "workers": 0, "rounds": 2}
TWO_HEADS, ONE_HEAD = "timm:deit_tiny_distilled_patch16_224", "timm:test_efficientnet"

ENGINE = """
from losses import DistillationLoss
import torch, utils

def train_one_epoch(model, criterion, loader, optimizer, device, epoch, scaler, max_norm, args):
    for images, labels in loader:
        loss = criterion(images, model(images), labels)
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=max_norm, parameters=model.parameters(), create_graph=False)
        torch.cuda.synchronize()
        print(utils.NAME, args.cosub, args.bce_loss)
"""
LOSSES = """
import torch

class DistillationLoss(torch.nn.Module):
    def __init__(self, base, teacher, kind, alpha, tau):
        super().__init__()
        self.base, self.teacher, self.given = base, teacher, (kind, alpha, tau)

    def forward(self, images, outputs, labels):
        assert self.given == ("hard", 0.5, 1.0)
        with torch.no_grad():
            taught = self.teacher(images).argmax(dim=1)
        return self.base(outputs[0], labels) + self.base(outputs[1], taught)
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the interface of the DeiT authors' engine."""
    folder = tmp_path / "deit"
    folder.mkdir()
    for name, text in {"engine": ENGINE, "losses": LOSSES, "utils": "NAME = 'the engine'"}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def ignore(what, done, total):
    """No progress."""


def test_every_arm_of_a_student_with_two_heads(plugins, clone, capsys):
    seen = []
    settings = BenchSettings(student=TWO_HEADS, deit=clone, **TINY)
    result = bench(settings, plugins, lambda what, done, total: seen.append(what))
    assert [arm.arm for arm in result.arms] == list(ARMS)
    assert {len(arm.rounds_ms) for arm in result.arms} == {2}
    assert min(arm.ms_per_image for arm in result.arms) > 0
    assert (result.reference, result.loader.arm, result.loader.workers) == ("bank", "bank", 0)
    flops = result.conditions["gflop_per_image"]
    assert 0 < flops["teacher"] < flops["student"]
    assert result.conditions["peak_precision"] in {"float32", "bfloat16"}
    assert result.conditions | {"threads": 1, "gflop_per_image": {}, "peak_precision": ""} == {
        "teacher_form": "plain",
        "teacher_notes": [],
        "compile": False,
        "gflop_per_image": {},
        "teacher": "timm:test_resnet",
        "student": TWO_HEADS,
        "loss": "hard",
        "image_size": "32x32",
        "batch": 2,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "cuda": None,
        "peak_precision": "",
    }
    assert {arm.arm for arm in result.arms if arm.gflop_per_image < flops["teacher"] + 3 * flops["student"]} == {
        "student",
        "bank",
    }
    assert all(0 < arm.share_of(result.peak_gflop_per_s) < 1 for arm in result.arms)
    assert seen[-15:] == [*ARMS, *reversed(ARMS), "done"]
    assert capsys.readouterr() == ("", "")


def test_a_student_with_one_head_has_no_hard_task_in_timm(plugins, clone):
    settings = BenchSettings(student=ONE_HEAD, deit=clone, arms=("minimal", "bank", "timm", "deit"), **TINY)
    result = bench(settings, plugins, ignore)
    assert [arm.arm for arm in result.arms] == ["minimal", "bank"]
    assert result.skipped == {
        "timm": "timm has no hard distillation for a student with one head",
        "deit": "the DeiT authors' loss needs a student with a distillation head",
    }


def test_the_form_of_the_teacher_is_chosen_and_shown(plugins):
    settings = BenchSettings(student=ONE_HEAD, loss="soft", arms=("live",), form="channels-last", **TINY)
    result = bench(settings, plugins, ignore)
    assert result.conditions["teacher_form"] == "channels-last"
    assert "in the arms of distillkit, the teacher computes as channels-last" in list(result.remarks())
    with pytest.raises(UserError) as raised:
        BenchSettings(form="fast").check(plugins)
    assert str(raised.value) == (
        "--form is 'fast'; give auto, measured, plain, or parts joined by +: channels-last, written-attention, "
        "half-weights, compiled"
    )


def test_soft_targets(plugins):
    arms = ("minimal", "student", "live", "timm")
    for student in (ONE_HEAD, TWO_HEADS):
        result = bench(BenchSettings(student=student, loss="soft", arms=arms, **TINY), plugins, ignore)
        assert (tuple(arm.arm for arm in result.arms), result.reference, result.loader.arm) == (arms, "live", "live")


def test_code_of_others_that_fails_is_left_out(plugins, clone):
    (clone / "utils.py").write_text("")
    settings = BenchSettings(student=TWO_HEADS, deit=clone, arms=("student", "deit"), **TINY)
    result = bench(settings, plugins, ignore)
    assert result.skipped == {"deit": "AttributeError: module 'utils' has no attribute 'NAME'"}
    only = BenchSettings(student=TWO_HEADS, deit=clone, arms=("deit",), **TINY)
    with pytest.raises(UnavailableError) as refused:
        bench(only, plugins, ignore)
    assert str(refused.value) == "no arm works here: deit: AttributeError: module 'utils' has no attribute 'NAME'"


def test_the_bank_is_full_and_its_teacher_never_runs(plugins, tmp_path):
    subject = open_subject(BenchSettings(student=TWO_HEADS, **TINY), plugins, tmp_path / "bank")
    (slot,) = subject.session.stepper.teacher_targets.teachers.values()
    slot.model.forward = None  # calling it would fail
    for window in [*subject.windows, *subject.session.data.windows(0, 5)]:
        subject.session.stepper.step(window)
    (use,) = subject.session.bank.uses.values()
    assert (use.computed, use.read, use.compared) == (4, 14, 0)


def test_too_little_memory_is_refused_before_the_models_are_built(plugins, tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    with pytest.raises(UserError) as refused:
        open_subject(BenchSettings(student=TWO_HEADS, arms=("bank",), **TINY), plugins, tmp_path)
    assert str(refused.value) == (
        "the models need 95.9 MB without activations, and 1.0 MB of memory is free; name smaller ones, or fewer --arms"
    )


def test_a_teacher_without_logits_is_refused(plugins, tmp_path):
    with pytest.raises(UserError) as refused:
        open_subject(BenchSettings(teacher="dino-vits16", student=TWO_HEADS), plugins, tmp_path)
    assert str(refused.value) == (
        "teacher 'dino-vits16' has no class logits, which hard and soft read; give another one"
    )


def test_a_teacher_of_another_size_is_refused(plugins, tmp_path):
    with pytest.raises(UserError) as refused:
        open_subject(BenchSettings(teacher="vit-b", student=TWO_HEADS, image_size=96), plugins, tmp_path)
    assert str(refused.value) == (
        f"teacher 'vit-b' accepts only images of 224x224 pixels, and student '{TWO_HEADS}' gets 96x96; "
        "give --image-size 224"
    )


@pytest.mark.parametrize(
    ("given", "ends", "measured"), [(3, 1e9, 3), (None, 24.0, 2), (None, 41.0, 4), (9, 31.0, 3), (None, 0.0, 2)]
)
def test_rounds_end_with_their_number_or_with_the_time(monkeypatch, given, ends, measured):
    clock = count(0, 5)  # each round reads the clock twice and so takes 5 s; the next one starts 5 s later
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(rounds, "_measure_once", lambda subject, name, arm: arm.rounds_ms.append(1.0))
    arms = {name: MeasuredArm(print) for name in "ab"}
    measure(None, arms, given, ends, ignore)
    assert [len(arm.rounds_ms) for arm in arms.values()] == [measured, measured]


def test_generated_images_are_about_as_large_as_those_of_imagenet():
    images = GeneratedImages(40, classes=3)
    assert (images.image(39).size, images.image(39).mode, images.label(38)) == ((500, 375), "RGB", 2)
    assert all(80_000 < len(each) < 140_000 for each in images._files)
    assert images.image(32).tobytes() == images.image(0).tobytes() != images.image(1).tobytes()
    assert generated_data(4, 1000).classes == 1000


@pytest.mark.gpu
def test_memory_of_a_step_is_measured_on_a_gpu(plugins):
    given = TINY | {"device": "cuda", "precision": "bf16", "batch": 8}
    result = bench(BenchSettings(student=TWO_HEADS, **given), plugins, ignore)
    assert min(arm.step_bytes for arm in result.arms) > 0
    assert (result.conditions["device"], result.conditions["cuda"]) == ("cuda", torch.version.cuda)


@pytest.mark.parametrize("loss", ["hard", "soft"])
@pytest.mark.parametrize("student", [ONE_HEAD, TWO_HEADS])
def test_the_loop_by_hand_has_the_loss_of_ours(plugins, tmp_path, student, loss):
    """For the same logits, drawn with a seed."""
    subject = open_subject(BenchSettings(student=student, loss=loss, **TINY), plugins, tmp_path / "bank")
    draw = torch.Generator().manual_seed(0)
    own, distilled, taught = (3 * torch.randn(4, 1000, generator=draw) for _ in range(3))
    labels = torch.nn.functional.one_hot(torch.tensor([3, 0, 7, 999]), 1000).float()
    if not subject.has_two_heads:
        distilled = own
    ours = subject.session.task.named_losses[loss]
    outputs = Outputs(logits=own, distill_logits=distilled)
    batch = BatchInfo(labels, torch.ones(4), 0.0, None)
    terms = {f"{loss}/{loss}": ours(outputs, ours.target(Outputs(logits=taught)), batch)[loss]}
    terms["labels"] = label_cross_entropy(outputs, batch, student="student")
    averages = batch_averages(terms, samples=4, labelled=4, micro_samples=4)
    total = subject.session.stepper.objective.total(averages)
    torch.testing.assert_close(distillation(subject)(own, distilled, taught, labels), total)
