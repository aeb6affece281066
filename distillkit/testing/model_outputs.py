"""Checks of what a model says about images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distillkit.contracts.model import LAYERED, Outputs, Signal, Wanted
from distillkit.plugin.runtime_checks import dtype_of, tensors_of
from distillkit.testing.loss_case import difference
from distillkit.testing.model_case import SAMPLES, ModelCase, say

ROUNDING = 1e-3
"""How far kernels for other batch sizes, or compiled ones, may be off, relative to the largest value."""


def signals(case: ModelCase) -> Iterator[str]:
    """Exactly the wanted signals are revealed, with the shapes that the spec describes, in evaluation and training."""
    for train in (False, True) if case.role == "student" else (False,):
        model = case.build(train=train)
        for wanted in _wishes(case):
            with torch.no_grad():
                outputs = say(model, case.images(), wanted)
            yield from _revealed(case, outputs, wanted, "in training" if train else "")
        if any(module.training is not train for module in model.modules()):
            yield "forward switches between training and evaluation; the core does that"


def _wishes(case: ModelCase) -> list[dict[Signal, tuple[int, ...]]]:
    """Every signal by itself, of all layers and of the first and last, and all together."""
    last = case.spec.layers - 1
    wishes = [case.wanted(signal) for signal in Signal if signal in case.spec.signals]
    for signal in LAYERED & case.spec.signals:
        wishes += [case.wanted(signal, layers=(last,)), case.wanted(signal, layers=tuple(sorted({0, last})))]
    return [*wishes, case.everything]


def _revealed(case: ModelCase, outputs: Outputs, wanted: Wanted, when: str) -> Iterator[str]:
    when = f" {when}" if when else ""
    found, expected = tensors_of(outputs), case.expected_shapes(wanted)
    for name in expected.keys() - found.keys():
        yield f"does not reveal {name}{when} although it is wanted"
    for name in found.keys() - expected.keys():
        yield f"reveals {name}{when} although nobody wants it; this costs time"
    for name in sorted(found.keys() & expected.keys()):
        if tuple(found[name].shape) != expected[name]:
            yield f"{name} has shape {list(found[name].shape)}{when}; its spec says {list(expected[name])}"
        if not torch.isfinite(found[name]).all():
            yield f"{name} is not finite{when}"
        if found[name].dtype != torch.float32:
            yield f"{name} of float32 images is {dtype_of(found[name])}{when}"


def attention_is_a_distribution(case: ModelCase) -> Iterator[str]:
    """An attention row has no negative entry and sums to one."""
    if Signal.CLS_ATTENTION not in case.spec.signals:
        return
    with torch.no_grad():
        rows = say(case.model, case.images(), case.wanted(Signal.CLS_ATTENTION)).cls_attention
    if rows is None:
        return
    if (rows < 0).any() or not torch.allclose(rows.sum(dim=-1), torch.ones_like(rows[..., 0]), atol=1e-4):
        yield "a row of cls_attention is no distribution: each must sum to one after keys of other tokens are removed"


def batch_of_one(case: ModelCase) -> Iterator[str]:
    """In evaluation, what is said of an image does not depend on its company."""
    with torch.no_grad():
        whole = tensors_of(say(case.model, case.images(), case.everything))
        for row in range(SAMPLES):
            alone = tensors_of(say(case.model, case.images()[row : row + 1], case.everything))
            for name in whole.keys() & alone.keys():
                if _apart(whole[name][row : row + 1], alone[name]):
                    yield f"{name} of an image alone differs from that of the same image in a batch"


def determined(case: ModelCase) -> Iterator[str]:
    """In evaluation, the same images give the same outputs whatever the seed, and stay as they are."""
    images = case.images()
    with torch.no_grad():
        first, second = (tensors_of(say(case.model, images, case.everything, seed=seed)) for seed in (1, 2))
    for name in first:
        if not torch.equal(first[name], second[name]):
            yield f"{name} differs from call to call in evaluation"
    if not torch.equal(images, case.images()):
        yield "forward changes the images in place; the teachers see them too"


def gradients(case: ModelCase) -> Iterator[str]:
    """Every signal of a student carries a finite gradient to its parameters."""
    if case.role == "teacher":
        return
    model = case.build(train=True)
    for signal in case.everything:
        model.zero_grad()
        tensors = tensors_of(say(model, case.images(), case.wanted(signal)))
        loss = torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum()
        if not loss.requires_grad:
            yield f"no gradient reaches the parameters from {signal}"
            continue
        loss.backward()  # type: ignore[no-untyped-call]
        given = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not any(bool(gradient.any()) for gradient in given):
            yield f"no gradient reaches the parameters from {signal}"
        if not all(bool(torch.isfinite(gradient).all()) for gradient in given):
            yield f"the gradient from {signal} is not finite"


def precision(case: ModelCase) -> Iterator[str]:
    """Outputs are float32 at least under autocast, and float64 stays float64."""
    with torch.no_grad(), torch.autocast(torch.device(case.device).type, dtype=torch.bfloat16):
        half = tensors_of(say(case.model, case.images(), case.everything))
    for name, tensor in half.items():
        if tensor.dtype != torch.float32:
            yield f"{name} is {dtype_of(tensor)} under autocast; the contract requires at least float32"
        elif not torch.isfinite(tensor).all():
            yield f"{name} is not finite under autocast"
    with torch.no_grad():
        double = tensors_of(say(case.build().double(), case.images(dtype=torch.float64), case.everything))
    for name, tensor in double.items():
        if tensor.dtype != torch.float64:
            yield f"{name} is {dtype_of(tensor)} where images and parameters are float64"


def sizes(case: ModelCase) -> Iterator[str]:
    """A model of flexible size sees half its own size without being rebuilt."""
    if not case.spec.flexible_size or Signal.LOGITS not in case.spec.signals:
        return
    height, width = (size // 2 for size in case.spec.image_size)
    with torch.no_grad():
        logits = say(case.model, case.images()[..., :height, :width], {Signal.LOGITS: ()}).logits
    if logits is None or tuple(logits.shape) != (SAMPLES, case.spec.classes):
        yield f"says flexible_size, and reveals no logits [{SAMPLES}, {case.spec.classes}] at {height}x{width} pixels"


def compiled(case: ModelCase) -> Iterator[str]:
    """torch.compile changes nothing of what is said."""
    if case.backend is None:
        return
    torch.compiler.reset()
    graph = torch.compile(case.build(), backend=case.backend)
    with torch.no_grad():
        expected = tensors_of(say(case.model, case.images(), case.everything))
        found = tensors_of(say(graph, case.images(), case.everything))
    for name in expected:
        if name not in found or _apart(expected[name], found[name]):
            yield f"{name} differs under torch.compile"


def _apart(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by more than other kernels explain."""
    scale = max(float(first.abs().max()), 1e-6)
    found = difference(first / scale, second / scale)
    return found is not None and found > ROUNDING
