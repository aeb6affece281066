"""Any timm classifier as a teacher or a student."""

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
"""The patch tokens [B, N, D] of one layer, and its prefix tokens [B, P, D] where it has any."""


class TimmModel(nn.Module):
    """Reveals what a timm network says about a batch; the network itself stays as timm made it.

    Where the logits alone are wanted of a network with one head, they come from the network's own forward. A network
    with two heads returns both logits whether it trains or not; timm's `distilled_training` is never touched.

    Layers: the blocks of a ViT, each through the final norm; the stages of a CNN, the last of them as its head pools
    it (behind the last convolution or norm). The embedding of a layer is the class token where the class head reads
    that, else the mean of the patch tokens, and for the last layer timm's own pooled feature where that has the
    layer's width. CLS attention is read inside the blocks while they run (`distillkit.models.cls_attention`).
    `arguments` are what `timm.create_model` needs beside the architecture to build the same network. `load_report`
    says what became of a weight file; it is None where the model is as initialised.
    """

    load_report: LoadReport | None

    def __init__(self, network: nn.Module, spec: ModelSpec, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.arguments = arguments
        self.load_report = None
        self._reads_tokens = traits.is_token_network(network)
        self._reads_class_token = traits.answers_by_class_token(network)
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
        """Describe the model on the meta device, without weights.

        Raises: RecipeError for a name, size or argument that timm does not take.
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
        """Build the model with random weights under torch's current seed, on torch's default device.

        Raises: as `describe`.
        """
        request = TimmRequest(architecture, name, classes, image_size, arguments)
        spec = describe_network(request, class_names)
        return cls(create_network(request), spec, request.network_arguments)

    @classmethod
    def sketch(cls, request: TimmRequest, class_names: tuple[str, ...] | None = None) -> TimmModel:
        """Build the model on the meta device: everything but memory and weights.

        Raises: as `describe`.
        """
        network, spec = sketch_network(request, class_names)
        return cls(network, spec, request.network_arguments)

    @property
    def _timm(self) -> Any:
        """The network, with the methods that timm gives every network and torch's types know nothing of."""
        return self.network

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        """Reveal exactly the wanted signals.

        Shapes: images [B, 3, H, W], normalised with the spec's mean and std.
        """
        of_attention = wanted.get(Signal.CLS_ATTENTION, ())
        if self._rows is None or not of_attention:
            return self._outputs(images, wanted) if wanted else Outputs()
        with self._rows.reading(of_attention) as rows:
            outputs = self._outputs(images, wanted)
        return replace(outputs, cls_attention=torch.stack([rows[layer] for layer in of_attention], dim=1))

    def _outputs(self, images: Tensor, wanted: Wanted) -> Outputs:
        """Everything but the attention, which is read meanwhile."""
        of_embedding, of_tokens = wanted.get(Signal.EMBEDDING, ()), wanted.get(Signal.PATCH_TOKENS, ())
        layers = tuple(sorted({*of_embedding, *of_tokens}))
        if not layers and Signal.LOGITS in wanted and Signal.DISTILL_LOGITS not in self.spec.signals:
            return Outputs(logits=at_least_float32(self.network(images)))
        features, revealed = self._features(images, layers)
        return Outputs(
            logits=at_least_float32(self._class_logits(features)) if Signal.LOGITS in wanted else None,
            distill_logits=at_least_float32(self._distill_logits(features))
            if Signal.DISTILL_LOGITS in wanted
            else None,
            embedding=tuple(
                at_least_float32(self._embedding(layer, revealed[layer], features)) for layer in of_embedding
            ),
            patch_tokens=tuple(at_least_float32(revealed[layer][0]) for layer in of_tokens),
        )

    def _features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, dict[int, Layer]]:
        """What the heads read, and of each layer asked for its tokens [B, N, D] and prefix tokens [B, P, D]."""
        network = self._timm
        if not layers:
            return network.forward_features(images), {}
        if self._reads_tokens:
            features, tokens = network.forward_intermediates(
                images, indices=list(layers), return_prefix_tokens=True, norm=True, output_fmt="NLC"
            )
            revealed = [each if isinstance(each, tuple) else (each, None) for each in tokens]
        else:
            features, maps = network.forward_intermediates(images, indices=list(layers))
            if layers[-1] == self.spec.layers - 1:
                maps = [*maps[:-1], last_map(features, maps[-1])]
            revealed = [(each.flatten(2).transpose(1, 2), None) for each in maps]  # [B, N, D], row-major
        return features, dict(zip(layers, revealed, strict=True))

    def _embedding(self, layer: int, revealed: Layer, features: Tensor) -> Tensor:
        """One vector per image, [B, D]."""
        tokens, prefix = revealed
        if self._reads_class_token and prefix is not None:
            return prefix[:, 0]
        if layer == self.spec.layers - 1:
            pooled = self._pooled(features)
            if pooled.shape[-1] == self.spec.width:
                return pooled
        return tokens.mean(dim=1)

    def _pooled(self, features: Tensor) -> Tensor:
        """What timm's class head reads, [B, D]."""
        pooled: Tensor = self._timm.forward_head(features, pre_logits=True)
        return pooled

    def _class_logits(self, features: Tensor) -> Tensor:
        if Signal.DISTILL_LOGITS in self.spec.signals:
            logits: Tensor = self._timm.head(self._seen_by_head(features, token=0))
        else:
            logits = self._timm.forward_head(features)
        return logits

    def _distill_logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self._timm.head_dist(self._seen_by_head(features, token=1))
        return logits

    def _seen_by_head(self, features: Tensor, *, token: int) -> Tensor:
        """What one of two heads reads, [B, D]: its token in a DeiT, the pooled feature in the others."""
        if isinstance(self.network, VisionTransformerDistilled):
            dropped: Tensor = self.network.head_drop(features[:, token])
            return dropped
        return self._pooled(features)
