"""Adapter that makes any network a student: the outputs of its named modules are its layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from distillkit.contracts.model import ModelSpec, Outputs, Signal, Wanted
from distillkit.errors import ShapeError
from distillkit.models.module_features import FeatureLayer
from distillkit.models.precision import at_least_float32
from distillkit.models.weight_loading import LoadReport


class ModuleModel(nn.Module):
    """Adapter around any network that returns the wanted signals; the network itself is not modified.

    Layers: the outputs of the modules in `layers`, in this order, read by forward hooks. The embedding of a layer is
    its class token if it has one, else the mean of its patch tokens; for the last layer it is the input of `head` if
    that has the layer's width. The logits are the network's output.
    Shapes: images [B, 3, H, W], normalised with the spec's mean and std.
    Raises: ShapeError if a layer has another grid than its description, at the image size of the description.
    """

    load_report: LoadReport | None

    def __init__(
        self, network: nn.Module, spec: ModelSpec, layers: Sequence[FeatureLayer], *, head: str | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.load_report = None
        self._layers = tuple(layers)
        self._is_reading = False
        self._read: dict[int, Tensor] = {}
        self._pooled: Tensor | None = None
        for index, layer in enumerate(self._layers):
            network.get_submodule(layer.module).register_forward_hook(partial(self._keep, index))
        if head is not None:
            network.get_submodule(head).register_forward_pre_hook(self._keep_pooled)

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        embedding_layers, token_layers = wanted.get(Signal.EMBEDDING, ()), wanted.get(Signal.PATCH_TOKENS, ())
        if not wanted:
            return Outputs()
        self._is_reading = True
        try:
            output = self.network(images)
            tokens = {layer: self._tokens(layer, images) for layer in sorted({*embedding_layers, *token_layers})}
            pooled = self._pooled
        finally:
            self._is_reading, self._read, self._pooled = False, {}, None
        return Outputs(
            logits=at_least_float32(output) if Signal.LOGITS in wanted else None,
            embedding=tuple(
                at_least_float32(self._embedding(layer, *tokens[layer], pooled)) for layer in embedding_layers
            ),
            patch_tokens=tuple(at_least_float32(tokens[layer][0]) for layer in token_layers),
        )

    def _tokens(self, index: int, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Patch tokens [B, N, D] and class token [B, D] of a layer."""
        layer = self._layers[index]
        tokens, class_token = layer.tokens(self._read[index])
        rows, columns = layer.grid
        if tuple(images.shape[2:]) == self.spec.image_size and tokens.shape[1:] != (rows * columns, layer.width):
            raise ShapeError(
                f"module '{layer.module}' of student '{self.spec.name}' returned {tokens.shape[1]} patches of width "
                f"{tokens.shape[2]}, and {rows}x{columns} of width {layer.width} when the run was planned"
            )
        return tokens, class_token

    def _embedding(self, index: int, tokens: Tensor, class_token: Tensor | None, pooled: Tensor | None) -> Tensor:
        """One vector per image, [B, D]."""
        if class_token is not None:
            return class_token
        is_last = index == len(self._layers) - 1
        if is_last and pooled is not None and pooled.shape == (tokens.shape[0], tokens.shape[2]):
            return pooled
        return tokens.mean(dim=1)

    def _keep(self, index: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self._is_reading:
            self._read[index] = output

    def _keep_pooled(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._is_reading and inputs and isinstance(inputs[0], Tensor):
            self._pooled = inputs[0].flatten(1) if inputs[0].dim() == 4 else inputs[0]
