"""Adapter that makes any timm classifier a teacher or a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from distillkit.contracts.model import ImageSize, ModelSpec, Outputs, Signal, Wanted
from distillkit.models import timm_traits as traits
from distillkit.models.cls_attention import ClassTokenRows
from distillkit.models.precision import at_least_float32
from distillkit.models.timm_networks import TimmRequest, create_network, describe_network, last_map, sketch_network
from distillkit.models.weight_loading import LoadReport

Layer = tuple[Tensor, Tensor | None]
"""The patch tokens [B, N, D] of one layer, and its prefix tokens [B, P, D] if it has any."""


class TimmModel(nn.Module):
    """Adapter around a timm network that returns the wanted signals; the network itself is not modified.

    If only the logits of a network with one head are wanted, they come from the network's own forward. A network with
    two heads returns both logits in training and evaluation; timm's `distilled_training` is never changed.

    Layers: the blocks of a ViT, each after the final norm; the stages of a CNN, the last as its head pools it (after
    the last convolution or norm). The embedding of a layer is the class token if the class head reads it, else the
    mean of the patch tokens; for the last layer it is timm's pooled feature if that has the layer's width. CLS
    attention is read by hooks inside the blocks (`distillkit.models.cls_attention`).
    `arguments` are those of `timm.create_model`, besides the architecture, for the same network. `load_report` is None
    if no weights were loaded.
    """

    load_report: LoadReport | None

    def __init__(self, network: nn.Module, spec: ModelSpec, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.arguments = arguments
        self.load_report = None
        self._reads_tokens = traits.is_token_network(network)
        self._reads_class_token = traits.class_head_reads_class_token(network)
        self._rows = ClassTokenRows(network) if Signal.CLS_ATTENTION in spec.signals else None

    @classmethod
    def describe(
        cls,
        architecture: str,
        *,
        name: str,
        classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        image_size: ImageSize | None = None,
        **arguments: Any,
    ) -> ModelSpec:
        """Describe the model from a copy on the meta device, without weights.

        Raises: RecipeError for a name, size or argument that timm does not accept.
        """
        return describe_network(TimmRequest(architecture, name, classes, image_size, arguments), class_names)

    @classmethod
    def create(
        cls,
        architecture: str,
        *,
        name: str,
        classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        image_size: ImageSize | None = None,
        **arguments: Any,
    ) -> TimmModel:
        """Build the model with random weights from torch's current seed, on torch's default device.

        Raises: as `describe`.
        """
        request = TimmRequest(architecture, name, classes, image_size, arguments)
        spec = describe_network(request, class_names)
        return cls(create_network(request), spec, request.network_arguments)

    @classmethod
    def sketch(cls, request: TimmRequest, class_names: tuple[str, ...] | None = None) -> TimmModel:
        """Build the model on the meta device, without memory and weights.

        Raises: as `describe`.
        """
        network, spec = sketch_network(request, class_names)
        return cls(network, spec, request.network_arguments)

    @property
    def _timm(self) -> Any:
        """The network, untyped: torch's types do not have timm's methods."""
        return self.network

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        """Return exactly the wanted signals.

        Shapes: images [B, 3, H, W], normalised with the spec's mean and std.
        """
        attention_layers = wanted.get(Signal.CLS_ATTENTION, ())
        if self._rows is None or not attention_layers:
            return self._outputs(images, wanted) if wanted else Outputs()
        with self._rows.reading(attention_layers) as rows:
            outputs = self._outputs(images, wanted)
        attention = torch.stack([rows[layer] for layer in attention_layers], dim=1)  # [B, L, A, 1 + N]
        return replace(outputs, cls_attention=attention)

    def _outputs(self, images: Tensor, wanted: Wanted) -> Outputs:
        """All wanted signals except the attention, which the hooks read during this forward."""
        embedding_layers, token_layers = wanted.get(Signal.EMBEDDING, ()), wanted.get(Signal.PATCH_TOKENS, ())
        layers = tuple(sorted({*embedding_layers, *token_layers}))
        if not layers and Signal.LOGITS in wanted and Signal.DISTILL_LOGITS not in self.spec.signals:
            return Outputs(logits=at_least_float32(self.network(images)))
        features, tokens = self._features(images, layers)
        return Outputs(
            logits=at_least_float32(self._class_logits(features)) if Signal.LOGITS in wanted else None,
            distill_logits=at_least_float32(self._distill_logits(features))
            if Signal.DISTILL_LOGITS in wanted
            else None,
            embedding=tuple(
                at_least_float32(self._embedding(layer, tokens[layer], features)) for layer in embedding_layers
            ),
            patch_tokens=tuple(at_least_float32(tokens[layer][0]) for layer in token_layers),
        )

    def _features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, dict[int, Layer]]:
        """Features for the heads, and patch tokens [B, N, D] and prefix tokens [B, P, D] of each of the layers."""
        network = self._timm
        if not layers:
            return network.forward_features(images), {}
        if self._reads_tokens:
            features, tokens = network.forward_intermediates(
                images, indices=list(layers), return_prefix_tokens=True, norm=True, output_fmt="NLC"
            )
            by_layer = [each if isinstance(each, tuple) else (each, None) for each in tokens]
        else:
            features, maps = network.forward_intermediates(images, indices=list(layers))
            if layers[-1] == self.spec.layers - 1:
                maps = [*maps[:-1], last_map(features, maps[-1])]
            by_layer = [(each.flatten(2).transpose(1, 2), None) for each in maps]  # [B, N, D], row-major
        return features, dict(zip(layers, by_layer, strict=True))

    def _embedding(self, layer: int, layer_tokens: Layer, features: Tensor) -> Tensor:
        """One vector per image, [B, D]."""
        tokens, prefix = layer_tokens
        if self._reads_class_token and prefix is not None:
            return prefix[:, 0]
        if layer == self.spec.layers - 1:
            # Some heads widen the feature after pooling (MobileNetV3), so that it no longer has the layer's width.
            pooled = self._pooled(features)
            if pooled.shape[-1] == self.spec.width:
                return pooled
        return tokens.mean(dim=1)

    def _pooled(self, features: Tensor) -> Tensor:
        """Input of timm's class head, [B, D]."""
        pooled: Tensor = self._timm.forward_head(features, pre_logits=True)
        return pooled

    def _class_logits(self, features: Tensor) -> Tensor:
        if Signal.DISTILL_LOGITS in self.spec.signals:
            # Not forward_head: in evaluation it returns the mean of both heads.
            logits: Tensor = self._timm.head(self._head_input(features, token=0))
        else:
            logits = self._timm.forward_head(features)
        return logits

    def _distill_logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self._timm.head_dist(self._head_input(features, token=1))
        return logits

    def _head_input(self, features: Tensor, *, token: int) -> Tensor:
        """Input of one of two heads, [B, D]: its token in a DeiT, the pooled feature in other networks."""
        if isinstance(self.network, VisionTransformerDistilled):
            dropped: Tensor = self.network.head_drop(features[:, token])
            return dropped
        return self._pooled(features)
