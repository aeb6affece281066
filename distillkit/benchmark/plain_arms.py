"""Arms without distillkit: a loop written by hand, and timm's distillation tasks, as its training script uses them."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional

from distillkit.benchmark.own_arms import Step
from distillkit.benchmark.subject import BenchSubject
from distillkit.data.batches import Window
from distillkit.errors import UnavailableError

LR, WEIGHT_DECAY = 1e-3, 0.05


def minimal(subject: BenchSubject) -> Step:
    """The least that a user would write: teacher, student, loss, backward, step."""
    teacher, student, loss_of = subject.teacher_network, subject.student_network(), distillation(subject)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)

    def step(window: Window) -> None:
        (batch,) = window.micro_batches
        with subject.autocast(subject.session.precision):
            with torch.no_grad():
                taught = teacher(batch.images)  # [B, K]
            logits = student(batch.images)  # [B, K], two of them from two heads
            own, distilled = logits if isinstance(logits, tuple) else (logits, logits)
            loss = loss_of(own, distilled, taught, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timm(subject: BenchSubject, dtype: torch.dtype = torch.float32) -> Step:
    """The step of timm's training script with a distillation task.

    Raises: UnavailableError where timm has no such task.
    """
    task = _timm_task(subject).train()
    optimizer = create_optimizer_v2(task.trainable_module, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)

    def step(window: Window) -> None:
        (batch,) = window.micro_batches
        with subject.autocast(dtype):
            loss = task(batch.images, batch.labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timm_bf16(subject: BenchSubject) -> Step:
    """The same under bf16 autocast (`--amp --amp-dtype bfloat16`)."""
    return timm(subject, torch.bfloat16)


def distillation(subject: BenchSubject) -> Any:
    """The weighted sum of both loss terms, from the student's logits, the teacher's and the labels, [B, K] each."""
    weight, label_weight, tau = subject.loss.weight, subject.plan.label_weight, temperature(subject)

    def hard(own: Tensor, distilled: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        distance = functional.cross_entropy(distilled, taught.argmax(dim=1))
        return label_weight * functional.cross_entropy(own, labels) + weight * distance

    def soft(own: Tensor, distilled: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        student_log, teacher_log = (functional.log_softmax(logits / tau, dim=1) for logits in (distilled, taught))
        distance = tau**2 * functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
        return label_weight * functional.cross_entropy(own, labels) + weight * distance

    return soft if subject.loss.plugin.name == "soft" else hard


def temperature(subject: BenchSubject) -> float:
    """Temperature of the loss; 1 for one without."""
    return float(getattr(subject.loss.options, "tau", 1.0))


def _timm_task(subject: BenchSubject) -> Any:
    try:
        from timm.task import LogitDistillationTask, TokenDistillationTask
    except ImportError:
        raise UnavailableError("the installed timm has no timm.task") from None
    loss = subject.loss.plugin.name
    shared: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss(),
        "task_loss_weight": subject.plan.label_weight,
        "distill_loss_weight": subject.loss.weight,
        "temperature": temperature(subject),
        "device": subject.device,
        "verbose": False,
    }
    student, teacher = subject.student_network(), subject.teacher_network
    if subject.has_two_heads:
        return TokenDistillationTask(student, teacher, distill_type=loss, **shared)
    if loss == "hard":
        raise UnavailableError("timm has no hard distillation for a student with one head")
    return LogitDistillationTask(student, teacher, **shared)
