"""Gradient norms of the loss terms, against separate backward passes; measuring must not change training."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as aot_config

from distillkit.contracts.loss import BatchInfo, TargetSpec
from distillkit.contracts.model import Outputs, Read, Signal
from distillkit.data.batches import MicroBatch, Window
from distillkit.models.timm_model import TimmModel
from distillkit.recipe.schema import Recipe
from distillkit.training.gradient_norms import keep_compiled_graphs
from distillkit.training.optimisation import build_optimisation
from distillkit.training.step import Stepper, StepSettings
from distillkit.training.task import DistillationTask, Objective
from distillkit.training.teacher_targets import LossSlot, TeacherTargets

CLASSES, WIDTH, STEPS = 5, 16, 6
WEIGHTS, LABEL_WEIGHT = {"align": 0.3, "spread": 2.0}, 0.7
WANTED = {Signal.LOGITS: (), Signal.EMBEDDING: (1,)}


class Align(nn.Module):
    """Squared distance of a projected embedding to ones; `own` is a term of the projector only."""

    reads_teacher: frozenset[Read] = frozenset()
    reads_student = frozenset({Read(Signal.EMBEDDING, "last")})
    weight, label_weight, couples_batch = 1.0, 1.0, False
    targets: Mapping[str, TargetSpec] = {}

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(WIDTH, 3)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        (embedding,) = student.embedding
        return {
            "cls": (self.projector(embedding) - 1).square().sum(dim=1),
            "own": self.projector.weight.square().sum().expand(len(embedding)),
        }


class Spread(Align):
    """A scalar term that couples the batch: minus the variance of the logits. No projector."""

    reads_student = frozenset({Read(Signal.LOGITS)})
    couples_batch = True

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        assert student.logits is not None
        return {"variance": -student.logits.var(dim=0).mean()}


class NoGradient(Spread):
    """A constant 0, without a graph, for a micro-batch of fewer than four images."""

    couples_batch = False

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        assert student.logits is not None
        if len(student.logits) < 4:
            return {"square": torch.zeros(len(student.logits))}
        return {"square": student.logits.square().sum(dim=1)}


def a_student(**arguments: Any) -> TimmModel:
    torch.manual_seed(0)
    return TimmModel.create(
        "deit_tiny_patch16_224",
        name="student",
        classes=CLASSES,
        image_size=(8, 8),
        patch_size=4,
        embed_dim=WIDTH,
        depth=2,
        num_heads=2,
        **arguments,
    )


def a_stepper(
    losses: Mapping[str, nn.Module],
    *,
    student: TimmModel | None = None,
    precision: torch.dtype = torch.float32,
    clip: float | None = None,
    dtype: torch.dtype = torch.float32,
    scaler: torch.amp.GradScaler | None = None,
) -> Stepper:
    """A stepper of a small ViT and the given losses."""
    student = student or a_student()
    task = DistillationTask(
        student, losses, spec=student.spec, wanted=WANTED, label_term=True, precision=precision
    ).train()
    task.to(dtype)
    recipe = Recipe.model_validate({"schedule": {"name": "constant"}})
    optimisation = build_optimisation(task, recipe, steps=STEPS, steps_per_epoch=STEPS)
    return Stepper(
        task,
        TeacherTargets({}, {name: LossSlot(loss, None) for name, loss in losses.items()}),  # type: ignore[arg-type]
        replace(optimisation, scaler=scaler) if scaler else optimisation,
        Objective({**WEIGHTS, "no_gradient": 1.0}, LABEL_WEIGHT),
        StepSettings(STEPS, seed=3, clip=clip),
    )


def two_losses() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"align": Align(), "spread": Spread()}


def a_window(parts: Sequence[int], *, step: int = 0, labelled: int = 6, dtype: torch.dtype = torch.float32) -> Window:
    """Images in micro-batches of these sizes, the first `labelled` of them labelled."""
    generator = torch.Generator().manual_seed(10 + step)
    samples = sum(parts)
    images = torch.randn(samples, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    mass = (torch.arange(samples) < labelled).to(dtype)
    labels = torch.rand(samples, CLASSES, generator=generator, dtype=torch.float64).softmax(dim=1).to(dtype)
    labels = labels * mass[:, None]
    micro_batches, start = [], 0
    for size in parts:
        part = slice(start, start + size)
        keys = tuple(map(str, range(start, start + size)))
        micro_batches.append(MicroBatch(images[part], labels[part], mass[part], keys))
        start += size
    return Window(step, 0, False, tuple(micro_batches), samples, labelled)


def measured(stepper: Stepper, window: Window) -> dict[str, float]:
    stepper.step(window, measure=True)
    return {name: float(norm) for name, norm in stepper.norms.items()}


def separate_gradients(parts: Sequence[int]) -> dict[str, Tensor]:
    """The student's gradient [P] of each weighted term, from a separate forward and backward per term."""
    window = a_window(parts, dtype=torch.float64)
    student, losses = a_student().double().train(), two_losses()
    align, spread = losses["align"].double(), losses["spread"].double()
    gradients = {}
    for name in ("labels", "align/cls", "align/own", "spread/variance"):
        student.zero_grad()
        for batch in window.micro_batches:
            outputs = student(batch.images, WANTED)
            if name == "labels":
                value = -0.7 * (batch.labels * outputs.logits.log_softmax(dim=1)).sum() / window.labelled
            elif name == "spread/variance":
                value = 2.0 * spread(outputs, {}, None)["variance"] * len(batch.images) / window.samples
            else:
                value = 0.3 * align(outputs, {}, None)[name.removeprefix("align/")].mean()
                value = value * len(batch.images) / window.samples
            value.backward()
        found = [parameter.grad for parameter in student.parameters()]
        zeros = [torch.zeros_like(parameter) for parameter in student.parameters()]
        gradients[name] = torch.cat([(z if g is None else g).flatten() for g, z in zip(found, zeros, strict=True)])
    return gradients


@pytest.mark.parametrize("parts", [(16,), (6, 6, 4), (2, 14)], ids=str)
def test_every_norm_is_that_of_a_separate_backward(parts: tuple[int, ...]) -> None:
    """Per-sample terms, a term that couples the batch, and one of the projector only, with norm 0 on the student."""
    expected = {name: float(vector.norm()) for name, vector in separate_gradients(parts).items()}
    found = measured(a_stepper(two_losses(), dtype=torch.float64), a_window(parts, dtype=torch.float64))
    assert {name: found[f"grad_norm/{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found["grad_norm/align/own"] == 0.0
    assert min(found[f"grad_norm/{name}"] for name in ("labels", "align/cls", "spread/variance")) > 1e-4


def test_the_gradients_of_the_terms_add_up_to_that_of_the_step() -> None:
    """Their sum is the student's gradient; `grad_norm` also includes the projector."""
    gradients = separate_gradients((10, 6))
    stepper = a_stepper(two_losses(), dtype=torch.float64)
    kept: list[Tensor] = []
    stepper.optimisation.optimizer.register_step_pre_hook(
        lambda *_: kept.extend(parameter.grad.clone() for parameter in stepper.task.parameters())
    )
    found = measured(stepper, a_window((10, 6), dtype=torch.float64))
    of_student = torch.cat([gradient.flatten() for gradient in kept[: len(list(stepper.task.student.parameters()))]])
    torch.testing.assert_close(sum(gradients.values()), of_student, rtol=0, atol=1e-12)
    assert found["grad_norm"] == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in kept)), rel=1e-9)
    assert found["grad_norm"] > float(of_student.norm())


def test_accumulation_gives_the_norms_of_one_batch() -> None:
    losses = {"align": two_losses()["align"]}
    full = measured(a_stepper(copy.deepcopy(losses), dtype=torch.float64), a_window((16,), dtype=torch.float64))
    parts = measured(a_stepper(copy.deepcopy(losses), dtype=torch.float64), a_window((5, 1, 10), dtype=torch.float64))
    assert set(full) == {"grad_norm", "grad_norm/labels", "grad_norm/align/cls", "grad_norm/align/own"}
    assert parts == pytest.approx(full, rel=1e-10)


def test_a_loss_without_a_graph_on_one_micro_batch_is_measured_on_the_others() -> None:
    """Only the second micro-batch of 4, of 7 images in total, has a gradient."""
    window = a_window((3, 4), dtype=torch.float64)
    stepper = a_stepper({"no_gradient": NoGradient()}, dtype=torch.float64)
    found = measured(stepper, window)["grad_norm/no_gradient/square"]
    student = a_student().double().train()
    outputs = student(window.micro_batches[1].images, WANTED)
    (outputs.logits.square().sum() / 7).backward()
    norms = [float(parameter.grad.norm()) for parameter in student.parameters() if parameter.grad is not None]
    assert found == pytest.approx(math.hypot(*norms), rel=1e-9)


def trained(stepper: Stepper, *, measure: bool) -> list[Tensor]:
    """All parameters and the optimiser state (any shape) after `STEPS` accumulated steps."""
    for step in range(STEPS):
        stepper.step(a_window((6, 6, 4), step=step), measure=measure)
    state = [value for entry in stepper.optimisation.optimizer.state.values() for value in entry.values()]
    return [*(parameter.detach() for parameter in stepper.task.parameters()), *state]


@pytest.mark.parametrize("clip", [None, 0.5], ids=["free", "clipped"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_training_is_bit_equal_with_and_without_measuring(precision: torch.dtype, clip: float | None) -> None:
    """Six accumulated steps with dropout and stochastic depth; in fp16 the scaler has to search for its scale."""
    results = []
    for measure in (False, True):
        student = a_student(drop_rate=0.1, drop_path_rate=0.3)
        scaler = None
        if precision is torch.float16:
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, backoff_factor=2.0**-6)
        stepper = a_stepper(two_losses(), student=student, precision=precision, clip=clip, scaler=scaler)
        results.append(trained(stepper, measure=measure))
        steps = {float(entry["step"]) for entry in stepper.optimisation.optimizer.state.values()}
        assert steps == ({STEPS - 1.0} if scaler else {float(STEPS)})
    different = [number for number, (a, b) in enumerate(zip(*results, strict=True)) if not torch.equal(a, b)]
    assert len(results[0]) > 50
    assert different == []


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**16])
def test_the_loss_scale_does_not_change_the_norms(scale: float) -> None:
    plain = measured(a_stepper(two_losses()), a_window((10, 6)))
    scaled = a_stepper(two_losses(), scaler=torch.amp.GradScaler("cpu", init_scale=scale))
    assert measured(scaled, a_window((10, 6))) == pytest.approx(plain, rel=1e-6)


def test_norms_in_fp16_are_close_to_those_in_fp32() -> None:
    plain = measured(a_stepper(two_losses()), a_window((10, 6)))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    half = measured(a_stepper(two_losses(), precision=torch.float16, scaler=scaler), a_window((10, 6)))
    assert half == pytest.approx(plain, rel=0.02)


def test_a_single_term_costs_no_extra_backward_and_two_cost_one_each() -> None:
    def backwards(losses: Mapping[str, nn.Module]) -> tuple[int, dict[str, float]]:
        stepper, seen = a_stepper(losses), []
        blocks: Any = stepper.task.student.network
        blocks.blocks[0].register_full_backward_hook(lambda *_: seen.append(1))
        found = measured(stepper, a_window((8, 8)))
        counted = len(seen)
        stepper.step(a_window((8, 8), step=1))
        assert len(seen) == counted + 2
        return counted, found

    count, found = backwards({})
    assert count == 2
    assert found["grad_norm/labels"] == found["grad_norm"] > 0
    assert backwards({"spread": Spread()})[0] == 2 * (2 + 1)


def test_gradient_checkpointing_changes_neither_norms_nor_training() -> None:
    results, norms = [], []
    for checkpointed in (False, True):
        student = a_student(drop_path_rate=0.3)
        network: Any = student.network
        network.set_grad_checkpointing(checkpointed)
        stepper = a_stepper(two_losses(), student=student)
        norms.append(measured(stepper, a_window((10, 6))))
        results.append([parameter.detach() for parameter in stepper.task.parameters()])
    assert norms[0] == norms[1]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@aot_config.patch(donated_buffer=True)
def test_a_compiled_model_can_be_measured_after_steps_without_measuring() -> None:
    """torch compiles the backward for the first step, which does not retain its graph; a later one needs to."""
    torch.compiler.reset()
    keep_compiled_graphs()
    norms = []
    for compiled in (False, True):
        stepper = a_stepper(two_losses())
        if compiled:
            network: Any = stepper.task.student.network
            network.blocks[1].mlp.compile(backend="aot_eager")
        stepper.step(a_window((16,)))
        norms.append(measured(stepper, a_window((16,), step=1)))
    torch.compiler.reset()
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
