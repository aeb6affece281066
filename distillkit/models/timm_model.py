"""Adapter that makes any timm classifier a teacher or a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from distillkit.contracts.model import ImageSize, ModelSpec, Outputs, Signal, Wanted
from distillkit.models import timm_traits as traits
from distillkit.models.cls_attention import ClassTokenRows
from distillkit.models.precision import at_least_float32
from distillkit.models.raw_tokens import RawPoints, RawTokens
from distillkit.models.timm_networks import TimmRequest, create_network, describe_network, last_map, sketch_network
from distillkit.models.weight_loading import LoadReport

Layer = tuple[Tensor, Tensor | None]
"""The patch tokens [B, N, D] of one layer, and its prefix tokens [B, P, D] if it has any."""
NO_ROWS: Mapping[int, Tensor] = {}


class TimmModel(nn.Module):
    """Adapter around a timm network that returns the wanted signals; the network itself is not modified.

    If only the logits of a network with one head are wanted, they come from the network's own forward. A network with
    two heads returns both logits in training and evaluation; timm's `distilled_training` is never changed.

    Layers: the blocks of a ViT, each after the final norm; the stages of a CNN, the last as its head pools it (after
    the last convolution or norm). The embedding of a layer is the class token if the class head reads it, else the
    mean of the patch tokens; for the last layer it is timm's pooled feature if that has the layer's width. CLS
    attention and raw tokens are read by hooks (`distillkit.models.cls_attention`, `distillkit.models.raw_tokens`);
    `raw` is where a CNN's raw maps are.
    `arguments` are those of `timm.create_model`, besides the architecture, for the same network. `load_report` is None
    if no weights were loaded.
    """

    load_report: LoadReport | None

    def __init__(
        self, network: nn.Module, spec: ModelSpec, arguments: dict[str, Any], raw: RawPoints | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.arguments = arguments
        self.load_report = None
        self._reads_tokens = traits.is_token_network(network)
        self._reads_class_token = traits.class_head_reads_class_token(network)
        self._rows = ClassTokenRows(network) if Signal.CLS_ATTENTION in spec.signals else None
        self._raw = RawTokens(network, raw) if Signal.RAW_TOKENS in spec.signals else None

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
        sketch = sketch_network(request, class_names)
        return cls(create_network(request), sketch.spec, request.network_arguments, sketch.raw)

    @classmethod
    def sketch(cls, request: TimmRequest, class_names: tuple[str, ...] | None = None) -> TimmModel:
        """Build the model on the meta device, without memory and weights.

        Raises: as `describe`.
        """
        network, spec, raw = sketch_network(request, class_names)
        return cls(network, spec, request.network_arguments, raw)

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
            return self._with_raw(images, wanted) if wanted else Outputs()
        with self._rows.reading(attention_layers) as rows:
            if len(wanted) == 1 and not self.training:
                self._run_attention(images, attention_layers[-1])
                outputs = Outputs()
            else:
                outputs = self._with_raw(images, wanted)
        attention = torch.stack([rows[layer] for layer in attention_layers], dim=1)  # [B, L, A, 1 + N]
        return replace(outputs, cls_attention=attention)

    def _run_attention(self, images: Tensor, last: int) -> None:
        """Run the network up to the attention of layer `last`, where the hooks have read all rows that are wanted.

        Two thirds of that layer's products, the MLP, are left out, and all that follows.
        """
        network = self._timm
        block = network.blocks[last]
        if type(block) is not Block or last == 0:
            network.forward_intermediates(images, indices=[last], stop_early=True, intermediates_only=True)
            return
        ((patches, prefix),) = network.forward_intermediates(
            images,
            indices=[last - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        block.attn(block.norm1(torch.cat((prefix, patches), dim=1)))  # [B, P + N, D]

    def _with_raw(self, images: Tensor, wanted: Wanted) -> Outputs:
        """All wanted signals except the attention, which the hooks read during this forward."""
        layers = wanted.get(Signal.RAW_TOKENS, ())
        with nullcontext(NO_ROWS) if self._raw is None or not layers else self._raw.reading(layers) as kept:
            return self._outputs(images, wanted, kept)

    def _outputs(self, images: Tensor, wanted: Wanted, kept: Mapping[int, Tensor]) -> Outputs:
        """All wanted signals except the attention; `kept` is what the hooks for raw tokens have read afterwards."""
        embedding_layers, token_layers = wanted.get(Signal.EMBEDDING, ()), wanted.get(Signal.PATCH_TOKENS, ())
        raw_layers = wanted.get(Signal.RAW_TOKENS, ())
        layers = tuple(sorted({*embedding_layers, *token_layers, *raw_layers}))
        if not layers and Signal.LOGITS in wanted and Signal.DISTILL_LOGITS not in self.spec.signals:
            return Outputs(logits=at_least_float32(self.network(images)))
        features, tokens, maps = self._features(images, layers, only_layers=self._reads_only(layers, wanted))
        to_heads = cast("Tensor", features)  # not None where the logits of a head are wanted
        return Outputs(
            logits=at_least_float32(self._class_logits(to_heads)) if Signal.LOGITS in wanted else None,
            distill_logits=at_least_float32(self._distill_logits(to_heads))
            if Signal.DISTILL_LOGITS in wanted
            else None,
            embedding=tuple(
                at_least_float32(self._embedding(layer, tokens[layer], features)) for layer in embedding_layers
            ),
            patch_tokens=tuple(at_least_float32(tokens[layer][0]) for layer in token_layers),
            raw_tokens=tuple(
                at_least_float32(self._raw_tokens(kept[layer] if layer in kept else maps[layer]))
                for layer in raw_layers
            ),
        )

    def _raw_tokens(self, read: Tensor) -> Tensor:
        """Raw tokens [B, N, D] from a ViT's sequence [B, P + N, D] or a CNN's map [B, D, h, w]."""
        return read[:, self.spec.prefix_tokens :] if self._reads_tokens else flat(read)

    def _reads_only(self, layers: Sequence[int], wanted: Wanted) -> bool:
        """Whether nothing behind the last of `layers` is wanted: no logits, pooled feature or later attention."""
        if not layers or not {Signal.LOGITS, Signal.DISTILL_LOGITS}.isdisjoint(wanted):
            return False
        is_deep = layers[-1] >= max(wanted.get(Signal.CLS_ATTENTION, ()), default=0)
        pools = layers[-1] == self.spec.layers - 1 and not (self._reads_tokens and self._reads_class_token)
        return is_deep and not pools

    def _features(
        self, images: Tensor, layers: Sequence[int], *, only_layers: bool
    ) -> tuple[Tensor | None, dict[int, Layer], dict[int, Tensor]]:
        """Features for the heads, and by layer patch tokens [B, N, D], prefix tokens [B, P, D] and a CNN's map.

        With `only_layers` the network ends at the last of the layers, and there are no features.
        """
        network = self._timm
        if not layers:
            return network.forward_features(images), {}, {}
        early: dict[str, bool] = {"stop_early": True, "intermediates_only": True} if only_layers else {}
        if self._reads_tokens:
            found = network.forward_intermediates(
                images, indices=list(layers), return_prefix_tokens=True, norm=True, output_fmt="NLC", **early
            )
            features, tokens = (None, found) if only_layers else found
            by_layer = [each if isinstance(each, tuple) else (each, None) for each in tokens]
            return features, dict(zip(layers, by_layer, strict=True)), {}
        found = network.forward_intermediates(images, indices=list(layers), **early)
        features, stages = (None, found) if only_layers else found
        maps = stages if features is None or layers[-1] < self.spec.layers - 1 else _with_last(features, stages)
        by_layer = [(flat(each), None) for each in maps]
        return features, dict(zip(layers, by_layer, strict=True)), dict(zip(layers, stages, strict=True))

    def _embedding(self, layer: int, layer_tokens: Layer, features: Tensor | None) -> Tensor:
        """One vector per image, [B, D]."""
        tokens, prefix = layer_tokens
        if self._reads_class_token and prefix is not None:
            return prefix[:, 0]
        if layer == self.spec.layers - 1 and features is not None:
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


def _with_last(features: Tensor, stages: Sequence[Tensor]) -> list[Tensor]:
    """The maps [B, D_i, h, w] of the stages, the last as the head pools it."""
    return [*stages[:-1], last_map(features, stages[-1])]


def flat(maps: Tensor) -> Tensor:
    """Maps [B, D, h, w] as tokens [B, N, D], row-major."""
    return maps.flatten(2).transpose(1, 2)
