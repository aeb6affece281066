"""Run-time checks of plugins: types, shapes, dtypes, devices and gradients of their inputs and outputs.

A run checks the first batch of every size, a plan checks meta tensors; `distillkit.testing` checks far more. Every
function raises BrokenPluginError with the plugin and the method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.contracts.loss import Loss, TargetSpec, preparation_of
from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.errors import BrokenPluginError
from distillkit.plugin.error_attribution import author_of, blamed, kind_of, refuse


def forward_signals(model: nn.Module, images: Tensor, wanted: Wanted) -> Outputs:
    """Call a plugin's model with images [B, C, H, W]; returns the wanted signals."""
    with blamed(model, "forward"):
        outputs = model(images, wanted)
    if not isinstance(outputs, Outputs):
        refuse(model, "forward", kind_of(outputs), "Outputs")
    return outputs


def require_mapping(whose: object, where: str, value: object) -> None:
    """Check that a plugin returned a mapping; its keys and values are checked later."""
    if not isinstance(value, Mapping):
        refuse(whose, where, kind_of(value), "a mapping from names to tensors")


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model, of any shape, by their names in a message."""
    return {f"its own weight '{name}'": parameter for name, parameter in model.named_parameters()}


def tensors_of(outputs: Outputs) -> dict[str, Tensor]:
    """All tensors of any shape in the outputs, by their names in a message: "patch_tokens[1]"."""
    tensors = {
        "logits": outputs.logits,
        "distill_logits": outputs.distill_logits,
        **{f"embedding[{index}]": tensor for index, tensor in enumerate(outputs.embedding)},
        "cls_attention": outputs.cls_attention,
        **{f"patch_tokens[{index}]": tensor for index, tensor in enumerate(outputs.patch_tokens)},
        **{f"raw_tokens[{index}]": tensor for index, tensor in enumerate(outputs.raw_tokens)},
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def revealed_shapes(spec: ModelSpec, wanted: Wanted, samples: int) -> dict[str, tuple[int, ...]]:
    """The shapes that a model must reveal according to its `spec`, by the names of `tensors_of`."""
    shapes: dict[str, tuple[int, ...]] = {
        signal.value: (samples, spec.classes) for signal in (Signal.LOGITS, Signal.DISTILL_LOGITS) if signal in wanted
    }
    for index, layer in enumerate(wanted.get(Signal.EMBEDDING, ())):
        shapes[f"embedding[{index}]"] = (samples, spec.widths[layer])
    for signal in (Signal.PATCH_TOKENS, Signal.RAW_TOKENS):
        for index, layer in enumerate(wanted.get(signal, ())):
            shapes[f"{signal.value}[{index}]"] = (samples, math.prod(spec.grids[layer]), spec.widths[layer])
    attention = wanted.get(Signal.CLS_ATTENTION, ())
    if attention:
        keys = 1 + math.prod(spec.grids[attention[0]])
        shapes["cls_attention"] = (samples, len(attention), spec.heads or 0, keys)
    return shapes


def check_outputs(model: object, outputs: Outputs, spec: ModelSpec, wanted: Wanted, images: Tensor) -> None:
    """Check the outputs of a model for images [B, C, H, W] against its `spec`."""
    for name in ("embedding", "patch_tokens", "raw_tokens"):
        value = getattr(outputs, name)
        if not isinstance(value, tuple):
            refuse(model, "forward", f"{name} as {type(value).__name__}", "a tuple with one tensor per layer")
    tensors, expected = tensors_of(outputs), revealed_shapes(spec, wanted, len(images))
    for name, shape in expected.items():
        if name not in tensors:
            refuse(model, "forward", f"no {name}", "all wanted signals")
        tensor = _tensor(model, "forward", name, tensors[name], images.device)
        if tuple(tensor.shape) != shape:
            refuse(model, "forward", f"{name} of shape {list(tensor.shape)}", f"{list(shape)}, as in its spec")
        if tensor.dtype not in (torch.float32, torch.float64):
            refuse(model, "forward", f"{name} of {dtype_of(tensor)}", "at least float32")


def check_declarations(loss: object, author: str) -> None:
    """Check the attributes of a built loss against the contract."""
    for fault in declaration_faults(loss):
        raise BrokenPluginError(f"{author}: {fault}")


def declaration_faults(loss: object) -> Iterator[str]:
    """Faults in the attributes of a loss, as sentences without a subject."""
    if not isinstance(loss, nn.Module):
        yield f"build returns {kind_of(loss)}; the contract requires a torch.nn.Module"
        return
    for name in ("reads_teacher", "reads_student", "weight", "label_weight", "targets"):
        if not hasattr(loss, name):
            yield f"has no '{name}'"
    for name in ("weight", "label_weight"):
        value = getattr(loss, name, 0.0)
        # bool is a subclass of int.
        if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value < math.inf:
            yield f"'{name}' is {value!r}; the contract requires a finite number of at least 0"
    for name in ("reads_teacher", "reads_student"):
        value = getattr(loss, name, frozenset())
        if not isinstance(value, frozenset) or not all(isinstance(read, Read) for read in value):
            yield f"'{name}' is {value!r}; the contract requires a frozenset of Read"
    for name in ("couples_batch", "needs_index"):
        value = getattr(loss, name, False)
        if not isinstance(value, bool):
            yield f"'{name}' is {value!r}; the contract requires True or False"
    yield from _preparation_faults(loss)
    yield from _target_faults(getattr(loss, "targets", {}))


def _preparation_faults(loss: object) -> Iterator[str]:
    named: object = getattr(loss, "target_buffers", frozenset[str]())
    if not isinstance(named, frozenset) or not all(isinstance(name, str) for name in named):
        yield f"'target_buffers' is {named!r}; the contract requires a frozenset of names of buffers"
    if preparation_of(loss) is None:
        return
    images, least = getattr(loss, "prepare_images", None), getattr(loss, "prepare_at_least", 1)
    if not isinstance(images, int) or images < 1:
        yield f"has prepare, and 'prepare_images' is {images!r}; the contract requires a number of at least 0"
    elif not isinstance(least, int) or not 1 <= least <= images:
        yield f"'prepare_at_least' is {least!r}; the contract requires a number from 1 to 'prepare_images', {images}"
    if not getattr(loss, "reads_teacher", None):
        yield "has prepare and reads no signal of the teacher; it would be prepared with nothing"


def _target_faults(targets: object) -> Iterator[str]:
    if not isinstance(targets, Mapping) or not all(isinstance(spec, TargetSpec) for spec in targets.values()):
        yield f"'targets' is {targets!r}; the contract requires a mapping from names to TargetSpec"
        return
    for name, spec in targets.items():
        if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            yield f"target '{name}' is described with dtype '{spec.dtype}'; torch has no such dtype"
        if not all(isinstance(size, int) and size > 0 for size in spec.shape):
            yield (
                f"target '{name}' is described with shape {spec.shape}; sizes must be at least 1, without the batch "
                "dimension"
            )


def check_target(loss: Loss, target: Mapping[str, Tensor], images: Tensor) -> None:
    """Check target tensors [B, ...] for images [B, C, H, W] against `targets`; they must have no gradient."""
    described = loss.targets
    if target.keys() != described.keys():
        refuse(loss, "target", _listed(target), f"{_listed(described)}, as in its targets")
    for key, spec in described.items():
        tensor = _tensor(loss, "target", f"'{key}'", target[key], images.device)
        shape = [len(images), *spec.shape]
        if list(tensor.shape) != shape:
            refuse(loss, "target", f"'{key}' of shape {list(tensor.shape)}", f"{shape}, as in its targets")
        if dtype_of(tensor) != spec.dtype:
            refuse(loss, "target", f"'{key}' of {dtype_of(tensor)}", f"{spec.dtype}, as in its targets")
        if tensor.requires_grad:
            refuse(loss, "target", f"'{key}' with a gradient to the teacher", "a tensor without gradient")


def check_terms(loss: Any, terms: Mapping[Any, Tensor], label_mass: Tensor) -> None:
    """Check the terms of a loss: [B], or [] if it couples the batch. `label_mass` [B] is that of the batch."""
    samples, couples = len(label_mass), bool(getattr(loss, "couples_batch", False))
    wanted = f"{'[] or ' if couples else ''}[{samples}], one value per sample"
    if not terms and loss.weight:  # a loss with weight 0, such as ce, only sets the weight of the label term
        refuse(loss, "forward", "no term", "at least one term")
    for name, value in terms.items():
        # The name becomes a key of the metrics and is printed.
        if not (isinstance(name, str) and name.isprintable() and name):
            refuse(loss, "forward", f"a term named {name!r}", "a printable name")
        tensor = _tensor(loss, "forward", f"term '{name}'", value, label_mass.device)
        if not (tuple(tensor.shape) == (samples,) or (couples and not tensor.dim())):
            refuse(loss, "forward", f"term '{name}' of shape {list(tensor.shape)}", wanted)
        if not tensor.is_floating_point():
            refuse(loss, "forward", f"term '{name}' of {dtype_of(tensor)}", "a floating-point number")


def check_gradients(whose: object, tensors: Mapping[str, Tensor]) -> None:
    """Check that outputs of a student, or terms of a loss, of any shape have a gradient."""
    for name, tensor in tensors.items():
        if not tensor.requires_grad:
            refuse(whose, "forward", f"{name} without a gradient", "a tensor with a gradient, not a detached one")


@contextmanager
def unchanged(whose: object, where: str, given: Mapping[str, Tensor]) -> Iterator[None]:
    """Check that a plugin does not change its input tensors, of any shape, in place; other plugins read them too.

    Compares torch's version counters, without copying or waiting for the device. Changes through `.data` are not found.
    """
    before = {name: tensor._version for name, tensor in given.items()}  # noqa: SLF001 - torch has no public name for it
    yield
    for name, tensor in given.items():
        if tensor._version != before[name]:  # noqa: SLF001 - as above
            raise BrokenPluginError(f"{author_of(whose)} changed {name} in place in {where}; clone it first")


def dtype_of(tensor: Tensor) -> str:
    """The dtype of a tensor of any shape, as in TargetSpec: "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def _tensor(whose: object, where: str, name: str, value: object, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        refuse(whose, where, f"{name} as {kind_of(value)}", "a tensor")
    if value.device.type != device.type:
        refuse(whose, where, f"{name} on {value.device}", f"a tensor on {device}, the device of its input")
    return value


def _listed(names: Mapping[str, object]) -> str:
    return " and ".join(f"'{name}'" for name in names) or "nothing"
