"""Checks of what a model's spec says, and of the model that is built from the same request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor, nn

from distillkit.contracts.model import LAYERED, ModelSpec, Signal
from distillkit.messages.text import with_type
from distillkit.plugin.runtime_checks import tensors_of
from distillkit.testing.loss_case import differences, tensor_state
from distillkit.testing.model_case import SAMPLES, ModelCase, say


def description(case: ModelCase) -> Iterator[str]:
    """The parts of the spec fit together and fit the request."""
    spec = case.spec
    if not isinstance(spec, ModelSpec):
        yield f"describe returns {type(spec).__name__}; the contract requires a ModelSpec"
        return
    if case.describe() != spec:
        yield "describe says something else every time; it must depend on the request alone"
    yield from _classes(case, spec)
    yield from _layers(spec)
    if len(spec.mean) != len(spec.std) or not all(deviation > 0 for deviation in spec.std):
        yield f"mean {spec.mean} and std {spec.std} are not one number per channel, std above 0"
    if not all(size > 0 for size in spec.image_size):
        yield f"image_size {spec.image_size} is not (height, width) in pixels"


def _classes(case: ModelCase, spec: ModelSpec) -> Iterator[str]:
    if case.request.classes is not None and spec.classes != case.request.classes:
        yield f"describes {spec.classes} classes where {case.request.classes} were asked for"
    if case.role == "student" and Signal.LOGITS not in spec.signals:
        yield "reveals no logits; a student needs them"
    if spec.class_names is not None and len(spec.class_names) != spec.classes:
        yield f"describes {spec.classes} classes and names {len(spec.class_names)}"
    for signal in sorted(spec.silent.keys() & spec.signals):
        yield f"reveals {signal}, and says in `silent` why it does not"
    registered = case.subject.registered
    unlisted = spec.signals - registered.spec.signals if registered is not None else frozenset[Signal]()
    for signal in sorted(unlisted):
        yield f"reveals {signal}, which the signals of its PluginSpec leave out"


def _layers(spec: ModelSpec) -> Iterator[str]:
    layered = sorted(LAYERED & spec.signals)
    if layered and not len(spec.widths) == len(spec.grids) == spec.layers:
        yield (
            f"reveals {layered[0]} of {spec.layers} layers, and describes {len(spec.widths)} widths and "
            f"{len(spec.grids)} grids; one each per layer is needed"
        )
    if Signal.CLS_ATTENTION in spec.signals and not spec.heads:
        yield "reveals cls_attention, and does not say how many heads a layer has"


def build(case: ModelCase) -> Iterator[str]:
    """What is built is what was described, and on the CPU."""
    torch.manual_seed(0)
    built = case.subject.factory.build(case.request)
    if not isinstance(built, nn.Module) or not isinstance(getattr(built, "network", None), nn.Module):
        yield f"build returns {type(built).__name__}; the contract asks for a torch.nn.Module with a module `network`"
        return
    described, found = case.spec, getattr(built, "spec", None)
    if not isinstance(found, ModelSpec):
        yield "what build returns has no 'spec'"
        return
    for field in fields(ModelSpec):
        first, second = getattr(described, field.name), getattr(found, field.name)
        if first != second:
            yield f"describes {field.name} {first!r}, and what is built has {second!r}"
    devices = {str(parameter.device) for parameter in built.parameters()} - {"cpu"}
    if devices:
        yield f"build puts parameters on {', '.join(sorted(devices))}; the core moves them from the CPU"


def network(case: ModelCase) -> Iterator[str]:
    """Head modules exist, and the parameters are as many as described."""
    inner = case.model.network
    known = {name for name, _ in inner.named_modules()}
    for name in case.spec.head_modules:
        if name not in known:
            yield f"head_modules names '{name}', which is no sub-module of its network"
    count = sum(parameter.numel() for parameter in inner.parameters())
    if case.spec.parameters not in (0, count):
        yield f"describes {case.spec.parameters} parameters, and its network has {count}"


def initialisation(case: ModelCase) -> Iterator[str]:
    """A student starts from torch's seed and from nothing else."""
    if case.role == "teacher":
        return
    if differences(tensor_state(case.build(seed=3).network), tensor_state(case.build(seed=3).network)):
        yield "two builds under one seed of torch start from different parameters; draw them with torch's own generator"


def meta_device(case: ModelCase) -> Iterator[str]:
    """`distillkit plan` builds the model and runs it once on tensors without memory."""
    try:
        model = case.build_without_memory()
        outputs = say(model, torch.empty(case.images().shape, device="meta"), case.everything)
    # torch raises NotImplementedError, RuntimeError, ...
    except Exception as error:  # noqa: BLE001
        yield (
            f"does not run on torch's meta device, on which `distillkit plan` counts: {with_type(error)}; "
            f"build under torch's default device, and let no shape and no branch depend on the values of a tensor"
        )
        return
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(outputs).items()}
    if shapes != case.expected_shapes(case.everything):
        yield "says something of another shape on the meta device than its spec describes"


def state(case: ModelCase) -> Iterator[str]:
    """The state of `network` is all that a saved model needs."""
    kept = case.model.network.state_dict()
    for name, value in kept.items():
        if not isinstance(value, Tensor):
            yield f"its network's state_dict holds '{name}' of type {type(value).__name__}; only tensors can be saved"
            return
    restored = case.build(seed=4)
    restored.network.load_state_dict(kept)
    images = case.images(SAMPLES)
    with torch.no_grad():
        before, after = (tensors_of(say(model, images, case.everything)) for model in (case.model, restored))
    if differences(before, after):
        yield "says something else after its network's state_dict was loaded into a new build"
