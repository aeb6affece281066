"""Checks of a loss's attributes, its declared signals and its target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from distillkit.contracts.model import LAYERED, ModelSpec, Read
from distillkit.messages.text import with_type
from distillkit.plugin.runtime_checks import declaration_faults, dtype_of, tensors_of
from distillkit.testing.loss_case import EVERY_ROW, LossCase, LossModule, difference, differences, tensor_state, total
from distillkit.testing.synthetic import map_batch, map_outputs

# (1, 3, 5, 0, 2, 4): every row changes its position.
SHUFFLED = tuple((2 * row + 1) % (len(EVERY_ROW) + 1) for row in EVERY_ROW)


def attributes(case: LossCase) -> Iterator[str]:
    """All attributes of the contract exist and have the right types."""
    yield from declaration_faults(case.build(prepared=False))


def reads(case: LossCase) -> Iterator[str]:
    """Every Read of a layered signal lists at least one layer, and each only once."""
    for role, spec, declared in (
        ("teacher", case.pair.teacher, case.loss.reads_teacher),
        ("student", case.pair.student, case.loss.reads_student),
    ):
        for read in sorted(declared, key=lambda read: read.signal):
            yield from _layers(role, read, spec)


def _layers(role: str, read: Read, spec: ModelSpec) -> Iterator[str]:
    if read.signal not in LAYERED:
        return
    indices = read.indices(spec)
    if not indices or len(set(indices)) != len(indices):
        yield f"reads {read.signal} of the {role}'s layers {indices}; name at least one layer, and each only once"


def build(case: LossCase) -> Iterator[str]:
    """Initialisation depends on torch's seed only."""
    if differences(tensor_state(case.build(seed=3)), tensor_state(case.build(seed=3))):
        yield "two builds with the same torch seed have different parameters; draw them from torch's global generator"


def meta_device(case: LossCase) -> Iterator[str]:
    """Build and forward work on the meta device, as `distillkit plan` runs them."""
    student = map_outputs(case.student(), _without_memory)
    batch = map_batch(case.batch(), _without_memory)
    target = {name: _without_memory(tensor) for name, tensor in case.target().items()}
    try:
        with torch.device("meta"):
            loss: LossModule = case.subject.factory.build(case.options, case.pair.student, case.pair.teacher)
        terms = loss(student, target, batch)
        if terms and total(terms).requires_grad:
            total(terms).backward()  # type: ignore[no-untyped-call]
    # torch raises NotImplementedError, RuntimeError, ...
    except Exception as error:  # noqa: BLE001
        yield (
            f"does not run on torch's meta device, which `distillkit plan` uses: {with_type(error)}; "
            f"use operations that work there, and let neither shapes nor branches depend on tensor values"
        )


def _without_memory(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)


def target(case: LossCase) -> Iterator[str]:
    """`target` returns the tensors that `targets` describes, without gradient."""
    teacher = case.teacher()
    # A run has no gradients here; with them, a target that is not detached is detected.
    for tensor in tensors_of(teacher).values():
        tensor.requires_grad_()
    returned, described = case.loss.target(teacher), case.loss.targets
    if returned.keys() != described.keys():
        yield f"target returns {_names(returned)}; targets describes {_names(described)}"
    for name in sorted(returned.keys() & described.keys()):
        spec, tensor = described[name], returned[name]
        if dtype_of(tensor) != spec.dtype:
            yield f"target '{name}' has dtype {dtype_of(tensor)}; targets says {spec.dtype}"
        if tensor.shape != (len(EVERY_ROW), *spec.shape):
            yield f"target '{name}' has shape {list(tensor.shape)}; targets says {[len(EVERY_ROW), *spec.shape]}"
        if tensor.requires_grad:
            yield f"target '{name}' carries a gradient to the teacher; detach it"
        if tensor.device.type != torch.device(case.device).type:
            yield f"target '{name}' is on {tensor.device}; the teacher's outputs are on {case.device}"


def teacher_unchanged(case: LossCase) -> Iterator[str]:
    """`target` does not change the teacher's outputs, which other losses read too."""
    teacher = case.teacher()
    before = {name: tensor.clone() for name, tensor in tensors_of(teacher).items()}
    with torch.no_grad():
        case.loss.target(teacher)
    for name, tensor in tensors_of(teacher).items():
        if not torch.equal(before[name], tensor):
            yield f"target changes the teacher's {name} in place; other losses read it too"


def _names(mapping: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(mapping)) or "nothing"


def target_dtypes(case: LossCase) -> Iterator[str]:
    """The target has the described dtype for a float64 teacher and under autocast."""
    torch.manual_seed(0)
    with torch.no_grad():
        double = case.loss.target(case.teacher(dtype=torch.float64))
        with torch.autocast(torch.device(case.device).type, dtype=torch.bfloat16):
            half = case.loss.target(case.teacher())
    for returned, condition in ((double, "of a float64 teacher"), (half, "under autocast")):
        for name, spec in case.loss.targets.items():
            if name in returned and dtype_of(returned[name]) != spec.dtype:
                yield f"target '{name}' {condition} has dtype {dtype_of(returned[name])}; targets says {spec.dtype}"


def batch_effects(case: LossCase) -> Iterator[str]:
    """The target of an image does not depend on the other images of the batch, nor on its position."""
    together = case.target()
    alone = [case.target((row,)) for row in EVERY_ROW]
    shuffled = case.target(SHUFFLED)
    for name, rows in together.items():
        singles = torch.cat([target[name] for target in alone])  # [B, ...]
        found = difference(rows, singles)
        if found is not None:
            yield (
                f"target '{name}' of an image alone differs by {found:.2g} from that of the same image in a batch; "
                f"it must not depend on the other images"
            )
        elif difference(rows[list(SHUFFLED)], shuffled[name]) is not None:
            yield f"target '{name}' of an image changes with its position in the batch; it must not"


def target_is_deterministic(case: LossCase) -> Iterator[str]:
    """The same teacher outputs give the same target."""
    first, second = case.target(), case.target()
    for name in first:
        if not torch.equal(first[name], second[name]):
            yield f"target '{name}' differs between calls on the same outputs"


def listed_signals(case: LossCase) -> Iterator[str]:
    """The PluginSpec names every signal that the loss reads from the teacher."""
    registered = case.subject.registered
    if registered is None:
        return
    for signal in sorted({read.signal for read in case.loss.reads_teacher} - registered.spec.signals):
        yield f"reads the teacher's {signal}, which is missing from the signals of its PluginSpec"
