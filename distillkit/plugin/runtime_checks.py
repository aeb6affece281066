"""Whether a plugin keeps what it promised: the types, shapes, dtypes, devices and gradients at its border.

A run looks at the first batch of every size, a plan at tensors without memory; `distillkit.testing` asks far more.
Each function raises BrokenPluginError with one sentence that names the plugin and the method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.contracts.loss import Loss, TargetSpec
from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.errors import BrokenPluginError
from distillkit.plugin.error_attribution import author_of, blamed, kind_of, refuse


def forward_signals(model: nn.Module, images: Tensor, wanted: Wanted) -> Outputs:
    """Call a model of a plugin: images [B, C, H, W] in, the wanted signals out."""
    with blamed(model, "forward"):
        outputs = model(images, wanted)
    if not isinstance(outputs, Outputs):
        refuse(model, "forward", kind_of(outputs), "Outputs")
    return outputs


def named(whose: object, where: str, value: object) -> None:
    """Refuse what is no mapping from names, be it to tensors or not."""
    if not isinstance(value, Mapping):
        refuse(whose, where, kind_of(value), "a mapping from names to tensors")


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model, by the names that a sentence gives them."""
    return {f"its own weight '{name}'": parameter for name, parameter in model.named_parameters()}


def tensors_of(outputs: Outputs) -> dict[str, Tensor]:
    """Every tensor, in the order of the fields, by the name that a sentence gives it: "patch_tokens[1]"."""
    one_each = {
        "logits": outputs.logits,
        "distill_logits": outputs.distill_logits,
        **{f"embedding[{index}]": tensor for index, tensor in enumerate(outputs.embedding)},
        "cls_attention": outputs.cls_attention,
        **{f"patch_tokens[{index}]": tensor for index, tensor in enumerate(outputs.patch_tokens)},
    }
    return {name: tensor for name, tensor in one_each.items() if tensor is not None}


def revealed_shapes(spec: ModelSpec, wanted: Wanted, samples: int) -> dict[str, tuple[int, ...]]:
    """What a model that `spec` describes must reveal, by the names of `tensors_of`."""
    shapes: dict[str, tuple[int, ...]] = {
        signal.value: (samples, spec.classes) for signal in (Signal.LOGITS, Signal.DISTILL_LOGITS) if signal in wanted
    }
    for index, layer in enumerate(wanted.get(Signal.EMBEDDING, ())):
        shapes[f"embedding[{index}]"] = (samples, spec.widths[layer])
    for index, layer in enumerate(wanted.get(Signal.PATCH_TOKENS, ())):
        shapes[f"patch_tokens[{index}]"] = (samples, math.prod(spec.grids[layer]), spec.widths[layer])
    attention = wanted.get(Signal.CLS_ATTENTION, ())
    if attention:
        keys = 1 + math.prod(spec.grids[attention[0]])
        shapes["cls_attention"] = (samples, len(attention), spec.heads or 0, keys)
    return shapes


def check_outputs(model: object, outputs: Outputs, spec: ModelSpec, wanted: Wanted, images: Tensor) -> None:
    """Hold what a model says of images [B, C, H, W] against its own description."""
    for name in ("embedding", "patch_tokens"):
        value = getattr(outputs, name)
        if not isinstance(value, tuple):
            refuse(model, "forward", f"{name} as {type(value).__name__}", "a tuple with one tensor per layer")
    found, promised = tensors_of(outputs), revealed_shapes(spec, wanted, len(images))
    for name, shape in promised.items():
        if name not in found:
            refuse(model, "forward", f"no {name}", "every signal that is wanted")
        tensor = _tensor(model, "forward", name, found[name], images.device)
        if tuple(tensor.shape) != shape:
            refuse(model, "forward", f"{name} of shape {list(tensor.shape)}", f"{list(shape)}, as its spec says,")
        if tensor.dtype not in (torch.float32, torch.float64):
            refuse(model, "forward", f"{name} of {dtype_of(tensor)}", "float32 at least")


def check_declarations(loss: object, author: str) -> None:
    """Hold what a built loss says about itself against the contract."""
    for fault in declaration_faults(loss):
        raise BrokenPluginError(f"{author}: {fault}")


def declaration_faults(loss: object) -> Iterator[str]:
    """What a loss says about itself otherwise than the contract asks for, in sentences without a subject."""
    if not isinstance(loss, nn.Module):
        yield f"build returns {kind_of(loss)}; a torch.nn.Module is what the contract asks for"
        return
    for name in ("reads_teacher", "reads_student", "weight", "label_weight", "targets"):
        if not hasattr(loss, name):
            yield f"has no '{name}'"
    for name in ("weight", "label_weight"):
        value = getattr(loss, name, 0.0)
        if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value < math.inf:
            yield f"'{name}' is {value!r}; a finite number of at least 0 is what the contract asks for"
    for name in ("reads_teacher", "reads_student"):
        value = getattr(loss, name, frozenset())
        if not isinstance(value, frozenset) or not all(isinstance(read, Read) for read in value):
            yield f"'{name}' is {value!r}; a frozenset of Read is what the contract asks for"
    couples = getattr(loss, "couples_batch", False)
    if not isinstance(couples, bool):
        yield f"'couples_batch' is {couples!r}; True or False is what the contract asks for"
    yield from _target_faults(getattr(loss, "targets", {}))


def _target_faults(targets: object) -> Iterator[str]:
    if not isinstance(targets, Mapping) or not all(isinstance(spec, TargetSpec) for spec in targets.values()):
        yield f"'targets' is {targets!r}; a mapping from names to TargetSpec is what the contract asks for"
        return
    for name, spec in targets.items():
        if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            yield f"target '{name}' is described with dtype '{spec.dtype}'; torch has no such dtype"
        if not all(isinstance(size, int) and size > 0 for size in spec.shape):
            yield f"target '{name}' is described with shape {spec.shape}; sizes above 0, without the batch, are meant"


def check_target(loss: Loss, target: Mapping[str, Tensor], images: Tensor) -> None:
    """Hold a target against what `targets` announced; it must carry no gradient to the teacher."""
    announced = loss.targets
    if target.keys() != announced.keys():
        refuse(loss, "target", _listed(target), f"{_listed(announced)}, as its targets say,")
    for key, spec in announced.items():
        tensor = _tensor(loss, "target", f"'{key}'", target[key], images.device)
        shape = [len(images), *spec.shape]
        if list(tensor.shape) != shape:
            refuse(loss, "target", f"'{key}' of shape {list(tensor.shape)}", f"{shape}, as its targets say,")
        if dtype_of(tensor) != spec.dtype:
            refuse(loss, "target", f"'{key}' of {dtype_of(tensor)}", f"{spec.dtype}, as its targets say,")
        if tensor.requires_grad:
            refuse(loss, "target", f"'{key}' with a gradient to the teacher", "a tensor without gradient")


def check_terms(loss: Any, terms: Mapping[Any, Tensor], label_mass: Tensor) -> None:
    """Hold the terms of a loss against the contract: one value per sample. `label_mass` [B] is of the batch."""
    samples, couples = len(label_mass), bool(getattr(loss, "couples_batch", False))
    wanted = f"{'[] or ' if couples else ''}[{samples}], one value per sample,"
    if not terms and loss.weight:  # without a weight it is a name for the labels alone, as ce is
        refuse(loss, "forward", "no term", "one term at least")
    for name, value in terms.items():
        if not (isinstance(name, str) and name.isprintable() and name):
            refuse(loss, "forward", f"a term named {name!r}", "a name that can be shown")
        tensor = _tensor(loss, "forward", f"term '{name}'", value, label_mass.device)
        if not (tuple(tensor.shape) == (samples,) or (couples and not tensor.dim())):
            refuse(loss, "forward", f"term '{name}' of shape {list(tensor.shape)}", wanted)
        if not tensor.is_floating_point():
            refuse(loss, "forward", f"term '{name}' of {dtype_of(tensor)}", "a floating-point number")


def check_gradients(whose: object, tensors: Mapping[str, Tensor]) -> None:
    """Refuse outputs of a student, or terms of a loss, that nothing can be learnt from."""
    for name, tensor in tensors.items():
        if not tensor.requires_grad:
            refuse(whose, "forward", f"{name} without a gradient", "a tensor that was not detached, to learn from,")


@contextmanager
def unchanged(whose: object, where: str, given: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse a plugin that changes in place what it was given; others read it too. Costs no copy and no wait.

    torch counts the changes of a tensor's memory, those through `.data` apart.
    """
    before = {name: tensor._version for name, tensor in given.items()}  # noqa: SLF001 - torch has no other name for it
    yield
    for name, tensor in given.items():
        if tensor._version != before[name]:  # noqa: SLF001 - likewise
            raise BrokenPluginError(f"{author_of(whose)} changed {name} in place in {where}; clone it first")


def dtype_of(tensor: Tensor) -> str:
    """The dtype as contracts spell it: "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def _tensor(whose: object, where: str, name: str, value: object, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        refuse(whose, where, f"{name} as {kind_of(value)}", "a tensor")
    if value.device.type != device.type:
        refuse(whose, where, f"{name} on {value.device}", f"a tensor on {device}, where its input lies,")
    return value


def _listed(names: Mapping[str, object]) -> str:
    return " and ".join(f"'{name}'" for name in names) or "nothing"
