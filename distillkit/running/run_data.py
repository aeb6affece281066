"""The training data of a run, and its first images, which are loaded once more before it starts."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import Tensor

from distillkit.compute.distributed import ALONE, Processes
from distillkit.data.batches import TrainingData
from distillkit.planning.plan import Plan


def training_data(
    plan: Plan, device: torch.device, processes: Processes = ALONE, *, in_this_process: bool = False
) -> TrainingData:
    """The training data of this process; with `in_this_process` no loader processes are started."""
    recipe = plan.recipe
    if in_this_process:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 0})})
    return TrainingData(
        plan.datasets,
        recipe,
        spec=plan.student.spec,
        device=device,
        rank=processes.rank,
        world=processes.world,
        # With data.broken=0 the first unreadable image is an error.
        replace_broken=recipe.data.broken > 0,
        allow_single=plan.student.trains_on_one_image,
    )


def first_batch(plan: Plan, device: torch.device, processes: Processes) -> Tensor:
    """The images of the first micro-batch of this process, [b, C, H, W], as it trains on them.

    Unreadable ones are replaced as in the run, which counts them.
    """
    with closing(training_data(plan, device, processes, in_this_process=True).windows(0, 1)) as windows:
        return next(windows).micro_batches[0].images
