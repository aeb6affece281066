"""Learning rates computed by hand, and the parameters with weight decay."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from typing import Any

import pytest
import torch
from timm.optim import Lamb

from distillkit.contracts.model import Signal
from distillkit.errors import RecipeError
from distillkit.models.timm_model import TimmModel
from distillkit.recipe.schema import Recipe
from distillkit.training.optimisation import build_optimisation, check_optimizer_name, effective_lr, warmup_steps
from distillkit.training.task import DistillationTask


def recipe(**tables: Any) -> Recipe:
    return Recipe.model_validate(tables)


@pytest.fixture(scope="module")
def task() -> DistillationTask:
    student = TimmModel.create(
        "deit_tiny_distilled_patch16_224",
        name="s",
        classes=3,
        image_size=(8, 8),
        patch_size=4,
        embed_dim=8,
        depth=1,
        num_heads=2,
    )
    wanted = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
    return DistillationTask(student, {}, spec=student.spec, wanted=wanted, label_term=True)


def test_the_learning_rate_scales_with_the_effective_batch() -> None:
    """DeiT: 5e-4 * 1024 / 512."""
    deit = recipe(optimizer={"lr": 5e-4, "lr_base_batch": 512}, training={"batch_size": 1024, "micro_batch_size": 64})
    assert effective_lr(deit) == 1e-3
    assert effective_lr(recipe(optimizer={"lr": 5e-4}, training={"batch_size": 1024})) == 5e-4


def test_warm_up_and_cosine_by_hand(task: DistillationTask) -> None:
    """10 steps, 2 of them warm-up from 0.01 to 0.1; the cosine goes over all 10 steps down to 0.02."""
    resolved = recipe(optimizer={"lr": 0.1}, schedule={"warmup_epochs": 0.4, "warmup_lr": 0.01, "min_lr": 0.02})
    assert warmup_steps(resolved, steps=10, steps_per_epoch=5) == 2
    optimisation = build_optimisation(task, resolved, steps=10, steps_per_epoch=5)
    rates = []
    for step in (0, 1, 2, 5, 9):
        optimisation.schedule.step_update(step)
        rates.append(optimisation.lr())
    cosine = [0.02 + 0.5 * 0.08 * (1 + math.cos(math.pi * step / 10)) for step in (2, 5, 9)]
    assert rates == pytest.approx([0.01, 0.055, *cosine])


def test_cosine_after_the_warm_up_by_hand(task: DistillationTask) -> None:
    """As AttnDistill's code: 10 steps, 2 of them warm-up from 0 to 0.1; the cosine goes over the other 8, to 0."""
    schedule = {"warmup_epochs": 0.4, "warmup_lr": 0.0, "min_lr": 0.0, "cosine_after_warmup": True}
    optimisation = build_optimisation(
        task, recipe(optimizer={"lr": 0.1}, schedule=schedule), steps=10, steps_per_epoch=5
    )
    rates = []
    for step in (0, 1, 2, 6, 9):
        optimisation.schedule.step_update(step)
        rates.append(optimisation.lr())
    cosine = [0.05 * (1 + math.cos(math.pi * (step - 2) / 8)) for step in (2, 6, 9)]
    assert rates == pytest.approx([0.0, 0.05, *cosine])
    assert (rates[2], rates[3]) == pytest.approx((0.1, 0.05))  # the peak, and half of it half-way


@pytest.mark.parametrize(("warmup_epochs", "expected"), [(0.0, [0.1, 0.05]), (2.0, [0.0, 0.05]), (9.0, [0.0, 0.05])])
def test_cosine_after_a_warm_up_of_nothing_or_everything(
    task: DistillationTask, warmup_epochs: float, expected: list[float]
) -> None:
    schedule = {"warmup_epochs": warmup_epochs, "warmup_lr": 0.0, "min_lr": 0.0, "cosine_after_warmup": True}
    optimisation = build_optimisation(
        task, recipe(optimizer={"lr": 0.1}, schedule=schedule), steps=2, steps_per_epoch=1
    )
    rates = []
    for step in (0, 1):
        optimisation.schedule.step_update(step)
        rates.append(optimisation.lr())
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("starts_late", [False, True])
def test_a_single_step_has_the_peak_rate_and_no_warning(
    task: DistillationTask, caplog: pytest.LogCaptureFixture, starts_late: bool
) -> None:
    resolved = recipe(optimizer={"lr": 0.1}, schedule={"cosine_after_warmup": starts_late})
    optimisation = build_optimisation(task, resolved, steps=1, steps_per_epoch=1)
    optimisation.schedule.step_update(0)
    assert (optimisation.lr(), caplog.messages) == (pytest.approx(0.1), [])


def test_a_constant_schedule_warms_up_and_stays(task: DistillationTask) -> None:
    resolved = recipe(optimizer={"lr": 0.1}, schedule={"name": "constant", "warmup_epochs": 1.0, "warmup_lr": 0.0})
    optimisation = build_optimisation(task, resolved, steps=10, steps_per_epoch=2)
    rates = []
    for step in (0, 1, 2, 9):
        optimisation.schedule.step_update(step)
        rates.append(optimisation.lr())
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.1])


def test_tokens_positions_biases_and_norms_do_not_decay(task: DistillationTask) -> None:
    optimisation = build_optimisation(task, recipe(optimizer={"weight_decay": 0.3}), steps=1, steps_per_epoch=1)
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    decayed = {
        names[id(parameter)].removeprefix("student.network.")
        for group in optimisation.optimizer.param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    }
    assert decayed == {
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.weight",
        "head_dist.weight",
    }


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [("adamw", torch.optim.AdamW, 0.1), ("sgd", torch.optim.SGD, 0.19), ("lamb", Lamb, 0.1)],
)
def test_first_step_of_each_optimiser_by_hand(
    task: DistillationTask, name: str, kind: type[torch.optim.Optimizer], expected: float
) -> None:
    """Gradients of 1: Adam and LAMB divide them by their size; SGD adds Nesterov's momentum of 0.9."""
    resolved = recipe(optimizer={"name": name, "lr": 0.1, "weight_decay": 0.0}, schedule={"warmup_epochs": 0.0})
    trained = deepcopy(task)
    optimisation = build_optimisation(trained, resolved, steps=1, steps_per_epoch=1)
    assert type(optimisation.optimizer) is kind
    before = {key: parameter.detach().clone() for key, parameter in trained.named_parameters()}
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimisation.optimizer.step()
    for key, parameter in trained.named_parameters():
        torch.testing.assert_close(before[key] - parameter, torch.full_like(parameter, expected), rtol=1e-3, atol=0)


def test_an_unknown_optimiser_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        check_optimizer_name(recipe(optimizer={"name": "adamww"}).optimizer)
    assert re.fullmatch(
        r"optimizer\.name: unknown optimizer 'adamww'; did you mean 'adamw'\? "
        r"\(known: adamw, (\w+, ){4}\.\.\. \d{2,3} in all\)",
        str(caught.value),
    )


def test_settings_that_an_optimiser_does_not_accept_are_one_sentence(task: DistillationTask) -> None:
    without_momentum = recipe(optimizer={"name": "sgd", "momentum": 0.0})
    with pytest.raises(RecipeError) as refused:
        build_optimisation(task, without_momentum, steps=4, steps_per_epoch=2)
    assert str(refused.value) == (
        "optimizer 'sgd' does not accept these settings (Nesterov momentum requires a momentum and zero "
        "dampening); change the other keys of [optimizer], or use another optimizer"
    )
