"""Checks of a model's spec, and of the model built from the same request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor, nn

from distillkit.contracts.model import LAYERED, ModelSpec, Signal
from distillkit.messages.text import with_type
from distillkit.plugin.runtime_checks import tensors_of
from distillkit.testing.loss_case import differences, tensor_state
from distillkit.testing.model_case import SAMPLES, ModelCase, call_model


def description(case: ModelCase) -> Iterator[str]:
    """The spec is consistent and fits the request."""
    spec = case.spec
    if not isinstance(spec, ModelSpec):
        yield f"describe returns {type(spec).__name__}; it must return a ModelSpec"
        return
    if case.describe() != spec:
        yield "describe returns another spec for the same request; it must depend on the request only"
    yield from _classes(case, spec)
    yield from _layers(spec)
    if len(spec.mean) != len(spec.std) or not all(deviation > 0 for deviation in spec.std):
        yield f"mean {spec.mean} and std {spec.std} must have one number per channel, std above 0"
    if not all(size > 0 for size in spec.image_size):
        yield f"image_size {spec.image_size} is not (height, width) in pixels"


def _classes(case: ModelCase, spec: ModelSpec) -> Iterator[str]:
    if case.request.classes is not None and spec.classes != case.request.classes:
        yield f"describes {spec.classes} classes, but the request is for {case.request.classes}"
    if case.role == "student" and Signal.LOGITS not in spec.signals:
        yield "reveals no logits; a student needs them"
    if spec.class_names is not None and len(spec.class_names) != spec.classes:
        yield f"describes {spec.classes} classes, but {len(spec.class_names)} class names"
    for signal in sorted(spec.silent.keys() & spec.signals):
        yield f"reveals {signal}, but `silent` gives a reason why it does not"
    registered = case.subject.registered
    unlisted = spec.signals - registered.spec.signals if registered is not None else frozenset[Signal]()
    for signal in sorted(unlisted):
        yield f"reveals {signal}, which is missing from the signals of its PluginSpec"


def _layers(spec: ModelSpec) -> Iterator[str]:
    layered = sorted(LAYERED & spec.signals)
    if layered and not len(spec.widths) == len(spec.grids) == spec.layers:
        yield (
            f"reveals {layered[0]} of {spec.layers} layers, but describes {len(spec.widths)} widths and "
            f"{len(spec.grids)} grids; each layer needs one of each"
        )
    if Signal.CLS_ATTENTION in spec.signals and not spec.heads:
        yield "reveals cls_attention, but its spec has no number of heads"


def build(case: ModelCase) -> Iterator[str]:
    """The built model has the described spec and is on the CPU."""
    torch.manual_seed(0)
    built = case.subject.factory.build(case.request)
    if not isinstance(built, nn.Module) or not isinstance(getattr(built, "network", None), nn.Module):
        yield f"build returns {type(built).__name__}; it must return a torch.nn.Module with a submodule `network`"
        return
    described, found = case.spec, getattr(built, "spec", None)
    if not isinstance(found, ModelSpec):
        yield "the built model has no ModelSpec in 'spec'"
        return
    for field in fields(ModelSpec):
        first, second = getattr(described, field.name), getattr(found, field.name)
        if first != second:
            yield f"describes {field.name} {first!r}, but the built model has {second!r}"
    devices = {str(parameter.device) for parameter in built.parameters()} - {"cpu"}
    if devices:
        yield f"build puts parameters on {', '.join(sorted(devices))}; it must leave them on the CPU"


def network(case: ModelCase) -> Iterator[str]:
    """Head modules exist, and the number of parameters is as described."""
    inner = case.model.network
    known = {name for name, _ in inner.named_modules()}
    for name in case.spec.head_modules:
        if name not in known:
            yield f"head_modules names '{name}', which is not a submodule of its network"
    count = sum(parameter.numel() for parameter in inner.parameters())
    if case.spec.parameters not in (0, count):
        yield f"describes {case.spec.parameters} parameters, but its network has {count}"


def initialisation(case: ModelCase) -> Iterator[str]:
    """Initialisation of a student depends on torch's seed only."""
    if case.role == "teacher":
        return
    if differences(tensor_state(case.build(seed=3).network), tensor_state(case.build(seed=3).network)):
        yield "two builds with the same torch seed have different parameters; draw them from torch's global generator"


def meta_device(case: ModelCase) -> Iterator[str]:
    """Build and forward work on the meta device, as `distillkit plan` runs them."""
    try:
        model = case.build_on_meta()
        outputs = call_model(model, torch.empty(case.images().shape, device="meta"), case.all_signals)
    # torch raises NotImplementedError, RuntimeError, ...
    except Exception as error:  # noqa: BLE001
        yield (
            f"does not run on torch's meta device, which `distillkit plan` uses: {with_type(error)}; "
            f"build on torch's default device, and let neither shapes nor branches depend on tensor values"
        )
        return
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(outputs).items()}
    if shapes != case.expected_shapes(case.all_signals):
        yield "outputs on the meta device do not have the shapes that its spec describes"


def state(case: ModelCase) -> Iterator[str]:
    """The state_dict of `network` is enough to restore the model."""
    kept = case.model.network.state_dict()
    for name, value in kept.items():
        if not isinstance(value, Tensor):
            yield f"its network's state_dict holds '{name}' of type {type(value).__name__}; only tensors can be saved"
            return
    # Another seed, so that only the loaded state can make the outputs equal.
    restored = case.build(seed=4)
    restored.network.load_state_dict(kept)
    images = case.images(SAMPLES)
    with torch.no_grad():
        before, after = (tensors_of(call_model(model, images, case.all_signals)) for model in (case.model, restored))
    if differences(before, after):
        yield "outputs differ after its network's state_dict is loaded into a new build"
