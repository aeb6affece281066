"""One model plugin and one request, with inputs for the checks."""

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
ModelCall: TypeAlias = Callable[[Tensor, Wanted], Outputs]


class ModelModule(Model, Protocol):
    """A model as an nn.Module."""

    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def zero_grad(self) -> None: ...
    def train(self, mode: bool = ...) -> ModelModule: ...  # noqa: FBT001 - as nn.Module has it
    def to(self, device: str) -> ModelModule: ...
    def double(self) -> ModelModule: ...


@dataclass(frozen=True)
class ModelCase:
    """A teacher or student as requested by a recipe.

    `backend` is that of torch.compile; None skips compilation.
    """

    subject: PluginUnderTest
    role: Literal["teacher", "student"]
    request: ModelRequest
    device: str
    backend: str | None

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.describe()

    @cached_property
    def model(self) -> ModelModule:
        """The model shared by all checks, in evaluation mode; they must not change it."""
        return self.build()

    def describe(self) -> ModelSpec:
        """Call `describe` again."""
        spec: ModelSpec = self.subject.factory.describe(self.request)
        return spec

    def build(self, seed: int = 0, *, train: bool = False) -> ModelModule:
        """Build a new model; `seed` sets the initialisation of a student."""
        torch.manual_seed(seed)
        model: ModelModule = self.subject.factory.build(self.request)
        return model.to(self.device).train(train)

    def build_on_meta(self) -> ModelModule:
        """Build the model as `distillkit plan` does: on the meta device, without weights."""
        weights = "none" if self.role == "teacher" else None
        with torch.device("meta"):
            model: ModelModule = self.subject.factory.build(replace(self.request, weights=weights))
        return model

    def images(self, samples: int = SAMPLES, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalised noise [B, C, H, W] of the model's image size, B = samples."""
        generator = torch.Generator().manual_seed(5)
        shape = (samples, len(self.spec.mean), *self.spec.image_size)
        # Drawn in float64, so that the images are the same in every dtype.
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, dtype)

    @property
    def all_signals(self) -> dict[Signal, tuple[int, ...]]:
        """The request for all signals of all layers."""
        return self.wanted(*Signal)

    def wanted(self, *signals: Signal, layers: tuple[int, ...] | None = None) -> dict[Signal, tuple[int, ...]]:
        """The request for those of `signals` that the model reveals, from all layers or from `layers`."""
        every = tuple(range(self.spec.layers)) if layers is None else layers
        return {signal: every if signal in LAYERED else () for signal in signals if signal in self.spec.signals}

    def expected_shapes(self, wanted: Wanted, samples: int = SAMPLES) -> dict[str, tuple[int, ...]]:
        """Expected shapes of the outputs, under the names of `tensors_of`."""
        return revealed_shapes(self.spec, wanted, samples)


def call_model(model: ModelCall, images: Tensor, wanted: Wanted, *, seed: int = 0) -> Outputs:
    """Outputs of a model for images [B, C, H, W]; its random numbers, if any, are the same in every call."""
    torch.manual_seed(seed)
    outputs: Any = model(images, wanted)
    if not isinstance(outputs, Outputs):
        raise TypeError(f"forward returns {type(outputs).__name__}; it must return Outputs")
    return outputs
