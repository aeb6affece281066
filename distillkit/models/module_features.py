"""Feature layers of any network: outputs of its named modules, found by one forward on the meta device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.contracts.model import ImageSize
from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import first_line, shortened

Calls = list[tuple[str, Any]]
"""Names and outputs of modules, in the order in which they return."""
TRACED = 2
"""Images of a traced batch: batch normalisation of a 1x1 map needs more than one in training."""


@dataclass(frozen=True)
class FeatureLayer:
    """A module whose output is a layer: a map [B, D, h, w], [B, h, w, D] if `channels_last`, or tokens [B, P + N, D].

    `prefix` is the number P of tokens before the patches: 0, or 1 for a class token.
    """

    module: str
    width: int
    grid: tuple[int, int]
    prefix: int = 0
    channels_last: bool = False

    def tokens(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The patch tokens [B, N, D], row-major, and the class token [B, D] if there is one, of the module's output."""
        if output.dim() == 4:
            return (output.flatten(1, 2) if self.channels_last else output.flatten(2).transpose(1, 2)), None
        return output[:, self.prefix :], output[:, 0] if self.prefix else None


@dataclass(frozen=True)
class ModuleTrace:
    """What a forward of a network shows: its layers, and the length of its output if that is one vector per image.

    `head` is the last linear layer or convolution with as many outputs as the network, None if there is none.
    """

    layers: tuple[FeatureLayer, ...]
    outputs: int | None
    head: str | None


def trace_modules(
    network: nn.Module,
    features: Sequence[str],
    image_size: ImageSize,
    *,
    student: str,
    channels_last: bool = False,
) -> ModuleTrace:
    """Find the layers of a network that is on the meta device, as it is when a run is planned; it is left in eval mode.

    `channels_last` says that maps are [B, h, w, D].
    Raises: RecipeError for a module that does not exist, is not called, or returns no map or tokens, or ones of
        several shapes; for a network that fails on the images, or on the meta device.
    """
    modules = dict(network.named_modules())
    for module in features:
        if not module or module not in modules:
            guess = nearest(module, modules, cutoff=0.0)
            raise RecipeError(
                f"student '{student}' has no module '{shortened(module)}'"
                + (f"; did you mean '{guess}'?" if guess else "")
            )
    _, in_training = run_traced(network.train(), image_size, student=student)
    output, calls = run_traced(network.eval(), image_size, student=student)
    layers = tuple(
        _layer(module, [*calls, *in_training], image_size, student, channels_last=channels_last) for module in features
    )
    length = output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None
    return ModuleTrace(layers, length, _head(calls, modules, length))


def run_traced(network: nn.Module, image_size: ImageSize, *, student: str) -> tuple[Any, Calls]:
    """The output of a network on the meta device, and those of all its modules.

    Raises: RecipeError if its forward fails.
    """
    images = torch.empty(TRACED, 3, *image_size, device="meta")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _recording(network) as calls:
            output = network(images)
    # The forward is the user's code and may fail in any way.
    except Exception as error:
        size = f"{image_size[0]}x{image_size[1]}"
        raise RecipeError(
            f"student '{student}' fails on images of {size} pixels, on the meta device as a plan runs it: "
            f"{first_line(error)}"
        ) from error
    return output, calls


@contextmanager
def _recording(network: nn.Module) -> Iterator[Calls]:
    calls: Calls = []

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        calls.append((name, output))

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in network.named_modules()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _layer(module: str, calls: Calls, size: ImageSize, student: str, *, channels_last: bool) -> FeatureLayer:
    """The layer of a module, from its outputs in evaluation and in training.

    Raises: RecipeError as `trace_modules`.
    """
    outputs = [output for name, output in calls if name == module]
    subject = f"module '{module}' of student '{student}'"
    if not outputs:
        raise RecipeError(f"{subject} is not called in its forward; name another module in features")
    other = next((output for output in outputs if not isinstance(output, Tensor)), None)
    if other is not None or outputs[0].dim() not in (3, 4):
        what = f"a tensor of shape {list(outputs[0].shape)}" if other is None else f"a {type(other).__name__}"
        raise RecipeError(
            f"{subject} returns {what}, not a map [B, C, H, W] or tokens [B, N, D]; name another module in features"
        )
    shapes = list(dict.fromkeys(tuple(output.shape) for output in outputs))
    if len(shapes) > 1:
        shown = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise RecipeError(f"{subject} returns outputs of several shapes, {shown}; name another module in features")
    if outputs[0].dim() == 4:
        _, first, second, third = shapes[0]
        width, grid = (third, (first, second)) if channels_last else (first, (second, third))
        return FeatureLayer(module, width, grid, channels_last=channels_last)
    _, tokens, width = shapes[0]
    # Without a class token first: 16 tokens are a 4x4 grid, 17 a class token and such a grid.
    for prefix in (0, 1):
        grid_of_tokens = _grid(tokens - prefix, size)
        if grid_of_tokens is not None:
            return FeatureLayer(module, width, grid_of_tokens, prefix)
    raise RecipeError(
        f"{subject} returns {tokens} tokens, which are no grid of a {size[0]}x{size[1]} image, with or without a class "
        "token; name another module in features"
    )


def _grid(tokens: int, size: ImageSize) -> tuple[int, int] | None:
    """Rows and columns of the tokens of an image, with its aspect ratio; None if there is no such grid."""
    rows = math.isqrt(max(tokens, 0) * size[0] // size[1])
    if rows == 0 or tokens % rows or rows * size[1] != tokens // rows * size[0]:
        return None
    return rows, tokens // rows


def _head(calls: Calls, modules: Mapping[str, nn.Module], outputs: int | None) -> str | None:
    """The module that computes the network's output."""
    heads = [
        name
        for name, _ in calls
        if outputs is not None
        and outputs in (getattr(modules[name], "out_features", None), getattr(modules[name], "out_channels", None))
    ]
    return heads[-1] if heads else None
