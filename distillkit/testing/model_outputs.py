"""Checks of a model's outputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distillkit.contracts.model import LAYERED, Outputs, Signal, Wanted
from distillkit.plugin.runtime_checks import dtype_of, tensors_of
from distillkit.testing.loss_case import difference
from distillkit.testing.model_case import SAMPLES, ModelCase, call_model

ROUNDING = 1e-3
"""Tolerated difference of kernels for other batch sizes, or compiled ones, relative to the largest value."""


def signals(case: ModelCase) -> Iterator[str]:
    """Exactly the requested signals are returned, with the shapes of the spec, in evaluation and training."""
    for train in (False, True) if case.role == "student" else (False,):
        model = case.build(train=train)
        for wanted in _requests(case):
            with torch.no_grad():
                outputs = call_model(model, case.images(), wanted)
            yield from _revealed(case, outputs, wanted, "in training" if train else "")
        if any(module.training is not train for module in model.modules()):
            yield "forward switches between training and evaluation mode; it must leave the mode unchanged"


def _requests(case: ModelCase) -> list[dict[Signal, tuple[int, ...]]]:
    """Every signal alone, from all layers, from the last, and from the first and last; and all together."""
    last = case.spec.layers - 1
    requests = [case.wanted(signal) for signal in Signal if signal in case.spec.signals]
    for signal in LAYERED & case.spec.signals:
        requests += [case.wanted(signal, layers=(last,)), case.wanted(signal, layers=tuple(sorted({0, last})))]
    return [*requests, case.all_signals]


def _revealed(case: ModelCase, outputs: Outputs, wanted: Wanted, when: str) -> Iterator[str]:
    when = f" {when}" if when else ""
    found, expected = tensors_of(outputs), case.expected_shapes(wanted)
    for name in expected.keys() - found.keys():
        yield f"does not reveal {name}{when} although it is requested"
    for name in found.keys() - expected.keys():
        yield f"reveals {name}{when} although it is not requested; this costs time"
    for name in sorted(found.keys() & expected.keys()):
        if tuple(found[name].shape) != expected[name]:
            yield f"{name} has shape {list(found[name].shape)}{when}; its spec says {list(expected[name])}"
        if not torch.isfinite(found[name]).all():
            yield f"{name} is not finite{when}"
        if found[name].dtype != torch.float32:
            yield f"{name} of float32 images has dtype {dtype_of(found[name])}{when}"


def attention_is_a_distribution(case: ModelCase) -> Iterator[str]:
    """Attention rows have no negative entries and sum to 1."""
    if Signal.CLS_ATTENTION not in case.spec.signals:
        return
    with torch.no_grad():
        rows = call_model(case.model, case.images(), case.wanted(Signal.CLS_ATTENTION)).cls_attention
    if rows is None:
        return
    if (rows < 0).any() or not torch.allclose(rows.sum(dim=-1), torch.ones_like(rows[..., 0]), atol=1e-4):
        yield "a row of cls_attention is not a distribution; it must sum to 1 after keys of other tokens are removed"


def batch_of_one(case: ModelCase) -> Iterator[str]:
    """In evaluation, the outputs of an image do not depend on the other images of the batch."""
    with torch.no_grad():
        together = tensors_of(call_model(case.model, case.images(), case.all_signals))
        for row in range(SAMPLES):
            alone = tensors_of(call_model(case.model, case.images()[row : row + 1], case.all_signals))
            for name in together.keys() & alone.keys():
                if _differs(together[name][row : row + 1], alone[name]):
                    yield f"{name} of an image alone differs from that of the same image in a batch"


def deterministic(case: ModelCase) -> Iterator[str]:
    """In evaluation, the same images give the same outputs for any seed, and are not changed."""
    images = case.images()
    with torch.no_grad():
        first, second = (tensors_of(call_model(case.model, images, case.all_signals, seed=seed)) for seed in (1, 2))
    for name in first:
        if not torch.equal(first[name], second[name]):
            yield f"{name} differs between calls in evaluation mode"
    if not torch.equal(images, case.images()):
        yield "forward changes the images in place; the teachers read them too"


def gradients(case: ModelCase) -> Iterator[str]:
    """Every signal of a student gives a finite gradient to its parameters."""
    if case.role == "teacher":
        return
    model = case.build(train=True)
    for signal in case.all_signals:
        model.zero_grad()
        tensors = tensors_of(call_model(model, case.images(), case.wanted(signal)))
        loss = torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum()
        if not loss.requires_grad:
            yield f"no gradient reaches the parameters from {signal}"
            continue
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            yield f"no gradient reaches the parameters from {signal}"
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            yield f"the gradient from {signal} is not finite"


def precision(case: ModelCase) -> Iterator[str]:
    """Outputs are float32 at least under autocast, and float64 for a float64 model."""
    with torch.no_grad(), torch.autocast(torch.device(case.device).type, dtype=torch.bfloat16):
        half = tensors_of(call_model(case.model, case.images(), case.all_signals))
    for name, tensor in half.items():
        if tensor.dtype != torch.float32:
            yield f"{name} has dtype {dtype_of(tensor)} under autocast; it must be float32 at least"
        elif not torch.isfinite(tensor).all():
            yield f"{name} is not finite under autocast"
    with torch.no_grad():
        double = tensors_of(call_model(case.build().double(), case.images(dtype=torch.float64), case.all_signals))
    for name, tensor in double.items():
        if tensor.dtype != torch.float64:
            yield f"{name} has dtype {dtype_of(tensor)} for float64 images and parameters"


def flexible_size(case: ModelCase) -> Iterator[str]:
    """A model with `flexible_size` accepts images of half its size."""
    if not case.spec.flexible_size or Signal.LOGITS not in case.spec.signals:
        return
    height, width = (size // 2 for size in case.spec.image_size)
    with torch.no_grad():
        logits = call_model(case.model, case.images()[..., :height, :width], {Signal.LOGITS: ()}).logits
    if logits is None or tuple(logits.shape) != (SAMPLES, case.spec.classes):
        yield f"declares flexible_size, but has no logits [{SAMPLES}, {case.spec.classes}] at {height}x{width} pixels"


def compiled(case: ModelCase) -> Iterator[str]:
    """torch.compile does not change the outputs."""
    if case.backend is None:
        return
    torch.compiler.reset()
    graph = torch.compile(case.build(), backend=case.backend)
    with torch.no_grad():
        expected = tensors_of(call_model(case.model, case.images(), case.all_signals))
        found = tensors_of(call_model(graph, case.images(), case.all_signals))
    for name in expected:
        if name not in found or _differs(expected[name], found[name]):
            yield f"{name} differs under torch.compile"


def _differs(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by more than the tolerance for other kernels."""
    scale = max(float(first.abs().max()), 1e-6)
    found = difference(first / scale, second / scale)
    return found is not None and found > ROUNDING
