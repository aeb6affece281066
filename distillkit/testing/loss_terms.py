"""Checks of a loss's terms and their gradients."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distillkit.contracts.model import Outputs
from distillkit.errors import UserError
from distillkit.messages.text import with_type
from distillkit.plugin.runtime_checks import dtype_of, tensors_of
from distillkit.testing.loss_case import EVERY_ROW, LossCase, difference, differences, total
from distillkit.testing.synthetic import map_outputs

FIRST, REST = EVERY_ROW[:4], EVERY_ROW[4:]


def terms(case: LossCase) -> Iterator[str]:
    """Each term is finite, has one value per sample, and the dtype of the student's outputs."""
    # 0 is the first step, where a loss that divides by the progress is not finite.
    for progress in (0.0, 0.5, 1.0):
        batch = case.batch()
        terms = case.terms(batch=replace(batch, progress=progress))
        yield from _shapes(case, terms, len(EVERY_ROW))
        for name, term in terms.items():
            if not torch.isfinite(term).all():
                yield f"term '{name}' is not finite at progress {progress:g}"
            if term.dtype != torch.float32:
                yield f"term '{name}' has dtype {dtype_of(term)}; the student's outputs are float32"
    if not terms and case.loss.weight != 0:
        yield f"returns no terms, but its weight is {case.loss.weight:g}"


def _shapes(case: LossCase, terms: dict[str, Tensor], samples: int) -> Iterator[str]:
    for name, term in terms.items():
        if term.shape == (samples,) or (case.couples_batch and term.shape == ()):
            continue
        wanted = f"[] or [{samples}]" if case.couples_batch else f"[{samples}]"
        yield (
            f"term '{name}' of a batch of {samples} has shape {list(term.shape)}; it must be {wanted}, one value per "
            f"sample"
        )


def inputs_unchanged(case: LossCase) -> Iterator[str]:
    """`forward` does not change its inputs, which other losses and the label term read too."""
    with torch.no_grad():
        student, target, batch = map_outputs(case.student(), Tensor.clone), dict(case.target()), case.batch()
        given = {f"the student's {name}": tensor for name, tensor in tensors_of(student).items()}
        given |= {f"target '{name}'": tensor for name, tensor in target.items()}
        if batch.labels is not None:
            given |= {"the labels": batch.labels, "the label mass": batch.label_mass}
        before = {name: tensor.clone() for name, tensor in given.items()}
        case.loss(student, target, batch)
    for name, tensor in given.items():
        if not torch.equal(before[name], tensor):
            yield f"forward changes {name} in place; other losses read it too"


def gradients(case: LossCase) -> Iterator[str]:
    """A gradient reaches every student tensor that is read and every parameter of the loss."""
    student, loss = case.student(), case.build()
    terms = case.terms(student=student, loss=loss)
    if not terms:
        return
    if not total(terms).requires_grad:
        yield "no gradient reaches the student: the terms are detached from its outputs"
        return
    total(terms).backward()  # type: ignore[no-untyped-call]
    for name, tensor in tensors_of(student).items():
        if tensor.grad is None or not tensor.grad.any():
            yield f"no gradient reaches the student's {name}, which the loss reads"
        elif not torch.isfinite(tensor.grad).all():
            yield f"the gradient of the student's {name} is not finite"
    for name, parameter in loss.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            yield f"no gradient reaches the loss's parameter '{name}'; use it or remove it"


def target_is_sufficient(case: LossCase) -> Iterator[str]:
    """A new loss object gives the same terms from a target that another object computed, as from a cached target."""
    found = differences(case.terms(), case.terms(loss=case.build()))
    for name in found:
        yield (
            f"term '{name}' needs more than the target: a new loss object gives another value for the same target; "
            f"keep no state between target and forward"
        )


def batch_of_one(case: LossCase) -> Iterator[str]:
    """A single image works, as in the last micro-batch of a step."""
    terms = case.terms((0,))
    yield from _shapes(case, terms, 1)
    for name, term in terms.items():
        if not torch.isfinite(term).all():
            yield f"term '{name}' of a single image is not finite"


def sample_by_sample(case: LossCase) -> Iterator[str]:
    """Splitting a batch does not change the terms, which makes gradient accumulation exact."""
    if case.couples_batch:
        return
    loss = case.build().double()
    together, first, rest = (case.terms(rows, torch.float64, loss=loss) for rows in (EVERY_ROW, FIRST, REST))
    for name, term in together.items():
        if term.shape != (len(EVERY_ROW),):
            continue
        found = difference(term, torch.cat([first[name], rest[name]]))
        if found is not None:
            yield (
                f"term '{name}' of an image differs by {found:.2g} when the batch is split in two; compute it from "
                f"that image only, or set couples_batch = True"
            )


def double_precision(case: LossCase) -> Iterator[str]:
    """Float64 inputs give float64 terms."""
    for name, term in case.terms(dtype=torch.float64, loss=case.build().double()).items():
        if term.dtype != torch.float64:
            yield f"term '{name}' has dtype {dtype_of(term)}; the student's outputs are float64"


def finite_differences(case: LossCase) -> Iterator[str]:
    """The gradient agrees with finite differences in float64."""
    loss, student, target = case.build().double(), case.student(dtype=torch.float64), case.target()
    batch = case.batch(dtype=torch.float64)
    inputs = tuple(tensors_of(student).values())

    def value(*changed: Tensor) -> Tensor:
        tensors = iter(changed)
        # The same random numbers in every call; otherwise a loss with noise has no finite differences.
        torch.manual_seed(0)
        terms = loss(map_outputs(student, lambda _: next(tensors)), target, batch)
        return total(terms) if terms else torch.zeros(())

    if not value(*inputs).requires_grad:
        return
    try:
        torch.autograd.gradcheck(value, inputs, fast_mode=True)
    except RuntimeError as error:
        yield f"the gradient differs from finite differences in float64: {with_type(error)}"


def half_precision(case: LossCase) -> Iterator[str]:
    """Terms and gradients are finite under autocast, with float32 and with half-precision outputs."""
    for dtype in (torch.bfloat16, torch.float16):
        for given in (torch.float32, dtype):
            student = case.student(dtype=given)
            with torch.autocast(torch.device(case.device).type, dtype=dtype):
                terms = case.terms(student=student)
            where = (
                f"under {str(dtype).removeprefix('torch.')} autocast with {str(given).removeprefix('torch.')} outputs"
            )
            yield from _finite(terms, student, where)


def _finite(terms: dict[str, Tensor], student: Outputs, where: str) -> Iterator[str]:
    for name, term in terms.items():
        if not torch.isfinite(term).all():
            yield f"term '{name}' is not finite {where}"
    if not terms or not total(terms).requires_grad:
        return
    total(terms).backward()  # type: ignore[no-untyped-call]
    for name, tensor in tensors_of(student).items():
        if tensor.grad is not None and not torch.isfinite(tensor.grad).all():
            yield f"the gradient of the student's {name} is not finite {where}"


def compiled(case: LossCase) -> Iterator[str]:
    """torch.compile changes neither terms nor gradients."""
    if case.backend is None or not case.terms():
        return
    torch.compiler.reset()
    module = torch.compile(case.build(), backend=case.backend)
    eager, graph = case.student(), case.student()
    expected = case.terms(student=eager)
    terms = case.terms(student=graph, loss=module)
    for name, found in differences(expected, terms).items():
        yield f"term '{name}' differs by {found:.2g} under torch.compile"
    for values in (expected, terms):
        if total(values).requires_grad:
            total(values).backward()  # type: ignore[no-untyped-call]
    for name, tensor in tensors_of(eager).items():
        other = tensors_of(graph)[name].grad
        if tensor.grad is not None and (other is None or difference(tensor.grad, other) is not None):
            yield f"the gradient of the student's {name} differs under torch.compile"


def deterministic(case: LossCase) -> Iterator[str]:
    """The same inputs and the same seed give the same terms, to the last bit."""
    first, second = case.terms(), case.terms()
    for name in first:
        if name not in second or not torch.equal(first[name], second[name]):
            yield f"term '{name}' differs between calls with the same inputs and seed"


def unlabelled(case: LossCase) -> Iterator[str]:
    """Images without labels work, or are refused with a UserError."""
    for batch, what in (
        (case.batch(kind="unlabelled"), "labels = None"),
        (case.batch(kind="partly"), "rows of zeros in labels"),
    ):
        student = case.student()
        try:
            terms = case.terms(student=student, batch=batch)
        except UserError:
            continue
        # Any other error would reach a user as a stack trace.
        except Exception as error:  # noqa: BLE001
            yield f"with {what} raised {with_type(error)}; support this, or raise a UserError that explains why not"
            continue
        yield from _shapes(case, terms, len(EVERY_ROW))
        yield from _finite(terms, student, f"with {what}")


def state(case: LossCase) -> Iterator[str]:
    """The state of the loss can be restored from a checkpoint and from pickle."""
    loss = case.build()
    kept = loss.state_dict()
    for name, value in kept.items():
        if not isinstance(value, Tensor):
            yield f"state_dict holds '{name}' of type {type(value).__name__}; a checkpoint can hold only tensors"
            return
    expected = case.terms(loss=loss)
    # Another seed, so that only the loaded state can make the terms equal.
    restored = case.build(seed=4)
    restored.load_state_dict(kept)
    copies: list[tuple[str, Callable[[], Any]]] = [
        ("a checkpoint", lambda: restored),
        ("pickle", lambda: pickle.loads(pickle.dumps(loss))),  # noqa: S301 - pickled on this line
    ]
    for how, copy in copies:
        try:
            restored_loss = copy()
        # pickle raises PicklingError, AttributeError, TypeError, ...
        except Exception as error:  # noqa: BLE001
            yield f"cannot be restored from {how}: {with_type(error)}"
            continue
        if differences(expected, case.terms(loss=restored_loss)):
            yield f"gives different terms when restored from {how}: some state is in neither the options nor state_dict"
