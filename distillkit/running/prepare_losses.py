"""Prepare the losses of a run before its first step: statistics and other buffers from the teachers' outputs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import cast

import torch
from torch import Tensor, nn

from distillkit.compute.distributed import Processes
from distillkit.contracts.loss import preparation_of
from distillkit.contracts.model import Outputs
from distillkit.contracts.signal_matching import restrict, wanted_signals
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.planning.plan import LossPlan
from distillkit.plugin.error_attribution import blamed, refuse
from distillkit.running.run_data import training_data
from distillkit.running.session import TrainingSession

LARGEST_BATCH = 64
"""Images per forward of a teacher."""


def prepare_session(session: TrainingSession, *, resumed: bool = False) -> None:
    """Prepare the losses, unless a checkpoint has what they computed; then open a bank whose key depends on it."""
    if not resumed:
        prepare_losses(session)
    if session.plan.prepares_targets:
        session.open_bank()


@torch.no_grad()
def prepare_losses(session: TrainingSession) -> None:
    """Call `prepare` of every loss that has one. Collective: all processes must call it.

    Raises: BrokenPluginError if a buffer changes its shape or dtype or is not finite; a UserError of the loss.
    """
    devices = [session.device] if session.device.type == "cuda" else []
    for name, module in session.task.named_losses.items():
        planned, loss = session.plan.losses[name], preparation_of(module)
        if loss is None or not planned.prepares:
            continue
        before = {buffer: _form(tensor) for buffer, tensor in module.named_buffers()}
        with torch.random.fork_rng(devices=devices), closing(_teacher_outputs(session, planned)) as outputs:
            torch.manual_seed(session.plan.recipe.seed)
            with blamed(module, "prepare"):
                loss.prepare(outputs)
        _check(module, before)
        _share(module, session.processes)


def _teacher_outputs(session: TrainingSession, planned: LossPlan) -> Generator[Outputs]:
    """What a loss reads of its teacher, for the images of the first steps of the run."""
    teacher: FrozenTeacher = session.teachers[cast("str", planned.teacher)]
    reads = planned.loss.reads_teacher
    wanted = wanted_signals(reads, teacher.spec)
    left = planned.prepares
    with closing(_images(session, left)) as images:
        for batch in images:
            with blamed(teacher, "forward"):  # else an error would be blamed on the loss
                # Not `teacher(...)`: a compiled teacher would be compiled again for these batches.
                outputs = teacher.forward(batch, wanted)
            yield restrict(outputs, wanted, reads, teacher.spec)


def _images(session: TrainingSession, count: int) -> Generator[Tensor]:
    """`count` images, in batches [B, C, H, W]; the same in every process and for any number of workers."""
    plan = session.plan
    # Those of the run, since mixing may depend on the micro-batches; it counts unreadable images when it shows them.
    # In a stream, the number of loader processes changes which image comes when.
    data = training_data(plan, session.device, in_this_process=plan.datasets.streaming)
    with closing(data.windows(0, -(-count // plan.samples_per_step))) as windows:
        for window in windows:
            for micro_batch in window.micro_batches:
                for batch in torch.split(micro_batch.images, LARGEST_BATCH):
                    if count > 0:
                        yield batch[:count]
                    count -= len(batch)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check(module: nn.Module, before: dict[str, str]) -> None:
    after = dict(module.named_buffers())
    for name in sorted(before.keys() | after.keys()):
        found = _form(after[name]) if name in after else "nothing"
        if found != before.get(name):
            refuse(module, "prepare", f"buffer '{name}' as {found}", f"{before.get(name, 'nothing')}, as after build")
        if after[name].is_floating_point() and not torch.isfinite(after[name]).all():
            refuse(module, "prepare", f"buffer '{name}' with values that are not finite", "finite values")


def _share(module: nn.Module, processes: Processes) -> None:
    """Give every process the buffers of the first one: devices may differ in the last bits."""
    for buffer in module.buffers():
        buffer.copy_(processes.broadcast_rows(0, buffer.cpu()))
