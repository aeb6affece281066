"""Optimiser, learning-rate schedule and loss scaler; those of timm and torch, counted in optimiser steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import one_line
from distillkit.recipe.schema import Optimizer, Recipe
from distillkit.training.task import DistillationTask

FUSED = frozenset({"adam", "adamw", "sgd"})
"""Optimisers of torch with a fused step on every device."""
SECOND_ORDER = frozenset({"adahessian"})
"""Optimisers that need second derivatives."""


@dataclass(frozen=True)
class Optimisation:
    """Optimiser, schedule and loss scaler; `schedule` computes the learning rate from the step number only."""

    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    scaler: torch.amp.GradScaler

    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])


def effective_lr(recipe: Recipe) -> float:
    """The peak learning rate, scaled by the effective batch where the recipe sets `optimizer.lr_base_batch`.

    Source: DeiT (Touvron et al. 2021, arXiv:2012.12877), section 6: lr = 5e-4 * batch / 512.
    Differs: the authors' code does not count gradient accumulation in the batch; this does.
    """
    base = recipe.optimizer.lr_base_batch
    return recipe.optimizer.lr * (recipe.training.batch_size / base if base else 1.0)


def warmup_steps(recipe: Recipe, *, steps: int, steps_per_epoch: int) -> int:
    """The number of linear warm-up steps, at most `steps`."""
    return min(steps, math.ceil(recipe.schedule.warmup_epochs * steps_per_epoch))


def build_optimisation(task: DistillationTask, recipe: Recipe, *, steps: int, steps_per_epoch: int) -> Optimisation:
    """Optimiser, schedule and scaler for the trainable parameters of `task`.

    Differs: DeiT's code applies weight decay to the distillation token, because its model does not list the token in
    `no_weight_decay`; here no token is decayed. DeiT steps the cosine once per epoch; this does at every step.
    """
    from timm.optim import create_optimizer_v2, param_groups_weight_decay

    table = recipe.optimizer
    groups = param_groups_weight_decay(task, table.weight_decay, no_weight_decay_list=tuple(task.no_weight_decay()))
    try:
        optimizer = create_optimizer_v2(
            cast("Any", [group for group in groups if group["params"]]),
            opt=table.name,
            lr=effective_lr(recipe),
            weight_decay=0.0,  # the groups have it
            **_given_options(table),
        )
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise RecipeError(
            f"optimizer '{table.name}' does not accept these settings ({one_line(error)}); change the other keys of "
            "[optimizer], or use another optimizer"
        ) from error
    if table.name == "sgd":
        _start_momentum_at_zero(optimizer)
    warmup = warmup_steps(recipe, steps=steps, steps_per_epoch=steps_per_epoch)
    shared: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": recipe.schedule.warmup_lr,
        "t_in_epochs": False,
    }
    if recipe.schedule.name == "cosine":
        starts_late = recipe.schedule.cosine_after_warmup
        # At least 2: of a cosine of 1 step timm warns, and the first step has the same rate.
        length = max(steps - warmup, 2) if starts_late else max(steps, warmup + 1, 2)
        schedule: Scheduler = CosineLRScheduler(
            optimizer,
            t_initial=length,
            lr_min=recipe.schedule.min_lr,
            cycle_limit=1,
            warmup_prefix=starts_late,
            **shared,
        )
    else:  # constant: a step decay that is never reached, for its warm-up
        schedule = StepLRScheduler(optimizer, decay_t=steps + 1, decay_rate=1.0, **shared)
    device = next(task.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=task.precision is torch.float16)
    return Optimisation(optimizer, schedule, scaler)


def _start_momentum_at_zero(optimizer: torch.optim.Optimizer) -> None:
    """Initialise SGD's momentum buffers with 0, which does not change its first step.

    Works around torch: if the first fused step is skipped, it leaves the buffers uninitialised and reads them in the
    second step.
    """
    for group in optimizer.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def check_optimizer_name(table: Optimizer) -> None:
    """Raise RecipeError for an optimiser that timm does not have, or that needs second derivatives."""
    if table.name in FUSED:
        return
    from timm.optim import list_optimizers  # imports torch's compiler, which a plan does not need

    known = [str(name) for name in list_optimizers()]
    if table.name not in known:
        raise RecipeError(f"optimizer.name: {unknown_name('optimizer', table.name, known)}")
    if table.name in SECOND_ORDER:
        raise RecipeError(
            f"optimizer.name: '{table.name}' needs second derivatives, which distillkit does not compute; use another "
            "optimizer"
        )


def _given_options(table: Optimizer) -> dict[str, Any]:
    """The options in the recipe, and `fused` where torch has a fused step."""
    options: dict[str, Any] = {}
    if table.betas is not None:
        options["betas"] = table.betas
    if table.eps is not None:
        options["eps"] = table.eps
    if table.momentum is not None:
        options["momentum"] = table.momentum
    if table.name in FUSED:
        options["fused"] = True
    return options
