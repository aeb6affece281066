"""Raw tokens of timm networks: a ViT's blocks without the final norm, a CNN's stages before their last activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

RawPoints: TypeAlias = tuple[str | None, ...]
"""For each stage of a CNN the activation whose input is its raw map, None where that is the output of the stage."""

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardtanh, nn.Mish,
)  # fmt: skip
WITHOUT = frozenset({"AddBackward0", "ConvolutionBackward0", "NativeBatchNormBackward0", "CatBackward0"})
"""Last operations of a stage that has no activation at its end, as torch names their gradients."""


@contextmanager
def recorded_activations(network: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """The name and output, of any shape, of every activation module that runs inside the `with` block, in order."""
    made: list[tuple[str, Tensor]] = []

    def record(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        made.append((name, output))

    found = [(name, module) for name, module in network.named_modules() if isinstance(module, ACTIVATIONS)]
    hooks = [module.register_forward_hook(partial(record, name)) for name, module in found]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


def raw_points(maps: Sequence[Tensor], made: Sequence[tuple[str, Tensor]]) -> RawPoints | None:
    """Where the raw maps of the stages are; None where one of them cannot be read exactly.

    Shapes: maps [B, D_i, h, w], computed with a graph. `made` is the result of `recorded_activations`.
    """
    names = [name for name, _ in made]
    points: list[str | None] = []
    for each in maps:
        operation = "" if each.grad_fn is None else each.grad_fn.name()
        # By identity: an in-place activation returns its input, and the graph then says which operation was the last.
        activations = [name for name, output in made if output is each]
        if operation in WITHOUT:
            points.append(None)
        elif "Mul" not in operation and len(activations) == 1 and names.count(activations[0]) == 1:
            points.append(activations[0])
        else:
            return None
    return tuple(points)


class RawTokens:
    """Forward hooks that read raw tokens of a timm network, which is not changed; without a reader nothing is kept.

    In a ViT they read the outputs of the blocks, in a CNN the inputs of the activations that `points` names.
    A network may be called again while it is being read. Not thread-safe: one thread per network at a time.
    """

    def __init__(self, network: nn.Module, points: RawPoints | None) -> None:
        self._layers: Sequence[int] = ()
        self._kept: dict[int, Tensor] = {}
        if points is None:
            blocks: Any = network.blocks
            for layer, block in enumerate(blocks):
                block.register_forward_hook(partial(self._keep_output, layer))
        else:
            for layer, name in enumerate(points):
                if name is not None:
                    network.get_submodule(name).register_forward_pre_hook(partial(self._keep_input, layer))

    @contextmanager
    def reading(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collect what the hooks read while the network runs inside the `with` block, by layer.

        Shapes: tokens [B, P + N, D] of a ViT, maps [B, D, h, w] of a CNN.
        """
        before = self._layers, self._kept
        self._layers, self._kept = layers, {}
        try:
            yield self._kept
        finally:
            self._layers, self._kept = before

    def _keep_output(self, layer: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if layer in self._layers:
            self._kept[layer] = output

    def _keep_input(self, layer: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer in self._layers:
            # An in-place activation overwrites its input.
            self._kept[layer] = inputs[0].clone() if getattr(module, "inplace", False) else inputs[0]
