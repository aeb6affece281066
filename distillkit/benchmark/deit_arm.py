"""The DeiT authors' engine as an arm: `train_one_epoch` and `DistillationLoss`, imported from a clone of their code."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from timm.optim import create_optimizer_v2
from timm.utils import NativeScaler
from torch import nn

from distillkit.benchmark.own_arms import Step
from distillkit.benchmark.plain_arms import LR, WEIGHT_DECAY, temperature
from distillkit.benchmark.subject import BenchSubject
from distillkit.data.batches import Window
from distillkit.errors import UnavailableError

MODULES = ("utils", "losses", "engine")
"""In the order of their imports."""


def deit(subject: BenchSubject, clone: Path) -> Step:
    """An epoch of one batch. Its autocast is CUDA's fp16, so that it computes in float32 on a CPU.

    Raises: UnavailableError for a student with one head; whatever the authors' code raises.
    """
    if not subject.has_two_heads:
        raise UnavailableError("the DeiT authors' loss needs a student with a distillation head")
    with _quiet(subject.device):
        _, losses, engine = _imported(clone)
    student = subject.student_network()
    kind, weight = subject.loss.plugin.name, subject.loss.weight
    criterion = losses.DistillationLoss(
        nn.CrossEntropyLoss(), subject.teacher_network, kind, weight, temperature(subject)
    )
    optimizer = create_optimizer_v2(student, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    options = SimpleNamespace(cosub=False, bce_loss=False)
    with _quiet(subject.device):
        scaler = NativeScaler()  # type: ignore[no-untyped-call]

    def step(window: Window) -> None:
        batches = [(batch.images, batch.labels) for batch in window.micro_batches]
        with _quiet(subject.device):
            engine.train_one_epoch(
                student, criterion, batches, optimizer, subject.device, 0, scaler, None, args=options
            )

    return step


def _imported(clone: Path) -> list[ModuleType]:
    """The authors' modules. Their names are general, so they are not left where others would find them."""
    hidden = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(clone))
    try:
        return [importlib.import_module(name) for name in MODULES]
    finally:
        sys.path.remove(str(clone))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


@contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Without the engine's log and warnings; without CUDA, also without its `torch.cuda.synchronize`."""
    synchronize = torch.cuda.synchronize
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(StringIO()))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        if device.type != "cuda":
            stack.callback(setattr, torch.cuda, "synchronize", synchronize)
            torch.cuda.synchronize = lambda *_: None
        yield
