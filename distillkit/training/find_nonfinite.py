"""Find the first module whose output is not finite, and the parameters whose gradient is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BadOutput:
    """The first module whose output was not finite, and the range of its input.

    The range is None where the input was not finite either: the value then comes from a function between two modules.
    """

    module: str
    kind: str
    input_range: tuple[float, float] | None


class NonFiniteFinder:
    """Checks the output of every module and the gradient of every parameter inside `watching`. Slow: each check syncs.

    `output` is the first output that was not finite, in forward order, inner modules first. `parameters` names the
    parameters with a gradient that was not finite, in backward order.
    """

    def __init__(self) -> None:
        self.output: BadOutput | None = None
        self.parameters: list[str] = []

    @contextmanager
    def watching(self, modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Check modules with all their submodules, and parameters (any shape), under the given names."""
        with ExitStack() as hooks:
            for prefix, root in modules.items():
                for name, module in root.named_modules(prefix=prefix):
                    hooks.enter_context(module.register_forward_hook(self._output_hook(name)))
            for name, parameter in parameters.items():
                handle: Any = parameter.register_post_accumulate_grad_hook(self._gradient_hook(name))  # type: ignore[no-untyped-call]  # torch does not type it
                hooks.enter_context(handle)
            yield

    def _output_hook(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if self.output is None and not all(_is_finite(tensor) for tensor in _tensors(output)):
                self.output = BadOutput(name, type(module).__name__, _range(list(_tensors(arguments))))

        return hook

    def _gradient_hook(self, name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            # Called once per micro-batch, on the sum of the gradients so far.
            if parameter.grad is not None and not _is_finite(parameter.grad) and name not in self.parameters:
                self.parameters.append(name)

        return hook


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _range(tensors: Sequence[Tensor]) -> tuple[float, float] | None:
    found = [tensor.detach().float() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not found or not all(map(_is_finite, found)):
        return None
    return min(float(tensor.min()) for tensor in found), max(float(tensor.max()) for tensor in found)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in the arguments or the output of a module."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _tensors(inner)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from _tensors(getattr(value, entry.name))
