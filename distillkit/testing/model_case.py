"""One model plugin and one request, and everything that a check may ask of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from distillkit.contracts.model import (
    LAYERED,
    Model,
    ModelRequest,
    ModelSpec,
    Outputs,
    Signal,
    Wanted,
)
from distillkit.plugin.runtime_checks import revealed_shapes
from distillkit.testing.subject import PluginUnderTest

SAMPLES = 3
Speak: TypeAlias = Callable[[Tensor, Wanted], Outputs]


class ModelModule(Model, Protocol):
    """A model, seen as the nn.Module that it is."""

    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def zero_grad(self) -> None: ...
    def train(self, mode: bool = ...) -> ModelModule: ...  # noqa: FBT001 - as nn.Module has it
    def to(self, device: str) -> ModelModule: ...
    def double(self) -> ModelModule: ...


@dataclass(frozen=True)
class ModelCase:
    """A teacher or student as a recipe would ask for it.

    `backend` is torch.compile's, None to leave compilation out.
    """

    subject: PluginUnderTest
    role: Literal["teacher", "student"]
    request: ModelRequest
    device: str
    backend: str | None

    @cached_property
    def spec(self) -> ModelSpec:
        """The description."""
        return self.describe()

    @cached_property
    def model(self) -> ModelModule:
        """The model that checks share, in evaluation mode; nothing may change it."""
        return self.build()

    def describe(self) -> ModelSpec:
        """Describe the model anew."""
        spec: ModelSpec = self.subject.factory.describe(self.request)
        return spec

    def build(self, seed: int = 0, *, train: bool = False) -> ModelModule:
        """Build the model anew; `seed` decides how a student starts."""
        torch.manual_seed(seed)
        model: ModelModule = self.subject.factory.build(self.request)
        return model.to(self.device).train(train)

    def build_without_memory(self) -> ModelModule:
        """Build it as `plan` does: on the meta device, without weights."""
        weights = "none" if self.role == "teacher" else None
        with torch.device("meta"):
            model: ModelModule = self.subject.factory.build(replace(self.request, weights=weights))
        return model

    def images(self, samples: int = SAMPLES, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalised noise of the model's own size."""
        generator = torch.Generator().manual_seed(5)
        shape = (samples, len(self.spec.mean), *self.spec.image_size)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, dtype)

    @property
    def everything(self) -> dict[Signal, tuple[int, ...]]:
        """All signals of all layers."""
        return self.wanted(*Signal)

    def wanted(self, *signals: Signal, layers: tuple[int, ...] | None = None) -> dict[Signal, tuple[int, ...]]:
        """Those of `signals` that the model can reveal, of all layers or of `layers`."""
        every = tuple(range(self.spec.layers)) if layers is None else layers
        return {signal: every if signal in LAYERED else () for signal in signals if signal in self.spec.signals}

    def expected_shapes(self, wanted: Wanted, samples: int = SAMPLES) -> dict[str, tuple[int, ...]]:
        """What `outputs` must have, by the names of `tensors_of`."""
        return revealed_shapes(self.spec, wanted, samples)


def say(model: Speak, images: Tensor, wanted: Wanted, *, seed: int = 0) -> Outputs:
    """Call a model as the core does; its noise, if it has any, is the same at every call."""
    torch.manual_seed(seed)
    outputs: Any = model(images, wanted)
    if not isinstance(outputs, Outputs):
        raise TypeError(f"forward returns {type(outputs).__name__}; the contract requires Outputs")
    return outputs
