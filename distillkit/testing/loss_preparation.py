"""Checks of `prepare`, of the buffers that it fills, and of `BatchInfo.index`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError

from distillkit.bank.row_format import RowFormat
from distillkit.contracts.loss import preparation_of, target_buffers
from distillkit.contracts.model import Outputs
from distillkit.errors import UserError
from distillkit.messages.text import with_type
from distillkit.plugin.runtime_checks import tensors_of
from distillkit.testing.loss_case import LossCase, LossModule, buffers_of, difference, differences


def preparation_works(case: LossCase) -> Iterator[str]:
    """`prepare` raises nothing but a UserError, which refuses the pair of models."""
    try:
        case.prepared_buffers  # noqa: B018 - computed at the first use
    except UserError:
        raise
    # Any other error would reach a user as a stack trace.
    except Exception as error:  # noqa: BLE001
        yield f"prepare raised {with_type(error)}"


def prepared_buffers(case: LossCase) -> Iterator[str]:
    """`prepare` fills buffers, each with finite values and the shape and dtype that `build` gave it."""
    loss = case.build(prepared=False)
    if preparation_of(loss) is None:
        return
    before = buffers_of(loss)
    if not before:
        yield "has prepare and no buffers; register what it computes with register_buffer, so that checkpoints have it"
        return
    case.prepare(loss)
    after = buffers_of(loss)
    for name in sorted(before.keys() | after.keys()):
        if name not in after or name not in before:
            yield f"prepare {'removes' if name in before else 'adds'} buffer '{name}'; register it in build"
        elif (before[name].shape, before[name].dtype) != (after[name].shape, after[name].dtype):
            yield f"prepare changes the shape or dtype of buffer '{name}'; keep those of build"
        elif not torch.isfinite(after[name]).all():
            yield f"prepare fills buffer '{name}' with values that are not finite"
    persistent = loss.state_dict()
    for name in sorted(after.keys() - persistent.keys()):
        yield f"buffer '{name}' is not persistent, so that a resumed run would not have it"


def preparation_is_deterministic(case: LossCase) -> Iterator[str]:
    """The same outputs give the same buffers, in batches of any size, and are not changed."""
    if preparation_of(case.build(prepared=False)) is None:
        return
    buffers = [_prepared(case, case.preparation_batches(split=split)) for split in (False, False, True)]
    for name in sorted(differences(buffers[0], buffers[1])):
        yield f"buffer '{name}' differs between two calls of prepare on the same outputs"
    for name in sorted(differences(buffers[0], buffers[2])):
        yield f"buffer '{name}' depends on how the images of prepare are split into batches"
    batches = list(case.preparation_batches())
    kept = [{name: tensor.clone() for name, tensor in tensors_of(batch).items()} for batch in batches]
    _prepared(case, batches)
    for batch, before in zip(batches, kept, strict=True):
        for name, tensor in tensors_of(batch).items():
            if not torch.equal(before[name], tensor):
                yield f"prepare changes the teacher's {name} in place"
                return


def _prepared(case: LossCase, batches: Iterable[Outputs]) -> dict[str, torch.Tensor]:
    loss = case.build(prepared=False)
    case.prepare(loss, batches)
    return buffers_of(loss)


def named_buffers_of_target(case: LossCase) -> Iterator[str]:
    """`target` depends on no buffer that `target_buffers` does not name."""
    named, loss = target_buffers(case.loss), case.build()
    if named is None or not loss.targets:
        return
    buffers = dict(loss.named_buffers())
    for name in sorted(named - buffers.keys()):
        yield f"'target_buffers' names '{name}', which is no buffer"
    with torch.no_grad():
        before = loss.target(case.teacher())
        for name in buffers.keys() - named:
            buffers[name].add_(1)
        after = loss.target(case.teacher())
    for name in sorted(before.keys() & after.keys()):
        if difference(before[name], after[name]) is not None:
            yield f"target '{name}' depends on a buffer that 'target_buffers' does not name"


def smaller_targets(case: LossCase) -> Iterator[str]:
    """Every entry of `smaller_targets` is valid with the other options, and makes the targets smaller."""
    own = RowFormat.of(case.loss.targets).bytes
    for changes in getattr(case.loss, "smaller_targets", ()):
        given: dict[str, Any] = {**case.options.model_dump(by_alias=True), **changes}
        try:
            options = type(case.options).model_validate(given)
        except ValidationError as error:
            yield f"'smaller_targets' has {changes}, which are not valid options: {with_type(error)}"
            continue
        smaller: LossModule = case.subject.factory.build(options, case.pair.student, case.pair.teacher)
        if RowFormat.of(smaller.targets).bytes >= own:
            yield f"'smaller_targets' has {changes}, with which the targets are not smaller"


def index_is_declared(case: LossCase) -> Iterator[str]:
    """A loss without `needs_index` does not read `BatchInfo.index`, which is None in a stream."""
    if getattr(case.loss, "needs_index", False):
        return
    try:
        found = differences(case.terms(), case.terms(batch=replace(case.batch(), index=None)))
    # A loss that reads it raises TypeError, IndexError, ...
    except Exception as error:  # noqa: BLE001
        yield f"with index = None raised {with_type(error)}; set needs_index = True if the loss reads it"
        return
    for name in found:
        yield f"term '{name}' depends on batch.index; set needs_index = True"
