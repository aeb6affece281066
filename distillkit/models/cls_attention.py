"""The class token's attention row, from a block's own query and keys, while its attention stays fused.

A loss on attention reads one query out of N: the class token's. Its row costs O(N) arithmetic and memory where the map
costs O(N^2), so the map is never made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import NoneType
from typing import Any, cast

import torch
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distillkit.models.precision import at_least_float32

PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    VisionTransformer: Attention,
    VisionTransformerDistilled: Attention,
    Eva: EvaAttention,
}
"""The networks that can be read, and the attention by which their blocks must attend."""


class ClassTokenRows:
    """Reveals the class token's attention rows of a ViT of timm that `why_no_rows` finds nothing against.

    It listens where a block hands its query and keys to scaled-dot-product attention, which are the outputs of
    `q_norm` and `k_norm` (identities in most networks). So timm's forward runs as it is, fused or not, with whatever
    gates, dropout and drop path it has, and its result stays the same bit for bit. Where no row is wanted, nothing is
    computed. `network` keeps its parameters and their names.

    A network may be called again while it is being read; two threads must not call the same one at once.
    """

    def __init__(self, network: nn.Module) -> None:
        timm: Any = network
        self._prefix = int(timm.num_prefix_tokens)
        self._layers: Sequence[int] = ()
        self._rows: dict[int, Tensor] = {}
        self._query: Tensor | None = None
        for layer, block in enumerate(timm.blocks):
            block.attn.q_norm.register_forward_hook(partial(self._hear_query, layer))
            block.attn.k_norm.register_forward_hook(partial(self._hear_keys, layer, block.attn.scale))

    @contextmanager
    def reading(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Read the rows of `layers` while the network runs inside the block: by layer, [B, H, 1 + N]."""
        before = self._layers, self._rows, self._query
        self._layers, self._rows, self._query = layers, {}, None
        try:
            yield self._rows
        finally:
            self._layers, self._rows, self._query = before

    def _hear_query(self, layer: int, _module: nn.Module, _inputs: Any, query: Tensor) -> None:
        if layer in self._layers:
            self._query = query[:, :, 0]

    def _hear_keys(self, layer: int, scale: float, _module: nn.Module, _inputs: Any, keys: Tensor) -> None:
        if layer in self._layers and self._query is not None:
            self._rows[layer] = class_token_row(self._query, keys, scale=scale, prefix_tokens=self._prefix)


def class_token_row(query: Tensor, keys: Tensor, *, scale: float, prefix_tokens: int = 1) -> Tensor:
    """The softmax row of the class token's query over the class token and the patches.

    Keys of other prefix tokens (distillation, registers) are left out before the softmax; that is the row over all
    keys with their entries removed and the rest divided by its sum.
    Shapes: query [B, H, D], keys [B, H, P + N, D] with the class token first, then the P - 1 other prefix tokens; the
        row is [B, H, 1 + N], in float32 at least, under autocast too.
    """
    scores: Tensor = _Scores.apply(query, keys)
    if prefix_tokens > 1:
        scores = torch.cat((scores[..., :1], scores[..., prefix_tokens:]), dim=-1)
    return torch.softmax(scale * scores, dim=-1)


class _Scores(torch.autograd.Function):
    """One query times all keys, [B, H, D] and [B, H, N, D] to [B, H, N], in float32 at least.

    Kept for the backward are query and keys as they came, which the block's own attention keeps too; plain operations
    would keep a copy of the keys, contiguous for a matrix product or in float32 under autocast.
    """

    @staticmethod
    def forward(query: Tensor, keys: Tensor) -> Tensor:
        # Products and sums, not a matrix product: autocast leaves them alone, and inductor makes them one pass.
        return (at_least_float32(query).unsqueeze(2) * keys).sum(dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's own
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        query, keys = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        of_query = (gradient * keys).sum(dim=2)
        of_keys = gradient * query.unsqueeze(2)
        return of_query.to(query.dtype), of_keys.to(keys.dtype)


def why_no_rows(network: nn.Module) -> str | None:
    """Why the class token's rows of a network of timm cannot be read, as the end of a sentence; None where they can.

    They can where queries and keys alone decide about them, the class token comes first, and every patch is a key: in
    timm's own `VisionTransformer`, `VisionTransformerDistilled` or, without rotary positions, `Eva` with class token
    whose blocks all attend by its plain attention (`PLAIN`), whatever norms, gates or residual scales they have.
    Everything else is refused, subclasses too, even where reading it might be possible.
    """
    plain = PLAIN.get(type(network))
    if plain is None or getattr(network, "rope", None) is not None:
        return _obstacle(network)
    if type(getattr(network, "patch_drop", None)) not in (nn.Identity, NoneType):
        return "it drops patches while it trains"
    vit = cast("VisionTransformer", network)
    is_plain = all(type(getattr(block, "attn", None)) is plain for block in vit.blocks)
    return None if is_plain and vit.cls_token is not None else _obstacle(network)


def _obstacle(network: nn.Module) -> str:
    """The first thing found that speaks against it."""
    kinds = " ".join(type(module).__name__ for module in network.modules())
    parameters = " ".join(name for name, _ in network.named_parameters())
    spoken = f"{kinds} {parameters}".lower()
    attends = isinstance(network, VisionTransformer) or "attn" in spoken or "attention" in spoken
    windows = any("Block" in type(each).__name__ and getattr(each, "window_size", None) for each in network.modules())
    findings = {
        "it has no attention": not attends,
        "its attention is windowed": windows or any(part in kinds for part in ("Window", "Partition", "MaskUnit")),
        "its position embedding is rotary": "Rope" in kinds or getattr(network, "rope", None) is not None,
        "its attention mixes the heads (talking heads)": "TalkingHead" in kinds,
        "its class token attends in the last blocks only": "ClassAtt" in kinds,
        "its attention adds a relative position bias": any(
            part in parameters for part in ("rel_pos", "relative_position", "attention_bias")
        ),
        "it has no class token": getattr(network, "cls_token", None) is None,
    }
    fallback = "its blocks attend in a way of their own"
    return next((reason for reason, is_found in findings.items() if is_found), fallback)
