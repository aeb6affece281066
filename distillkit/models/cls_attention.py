"""The class token's attention row, computed from a block's query and keys while its attention stays fused.

An attention loss reads one query of N: the class token's. Its row costs O(N) arithmetic and memory and the full map
O(N^2), so the map is never computed. Rotary positions turn the keys of the patches and not the class token's query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import NoneType
from typing import Any, cast

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distillkit.errors import SignalError
from distillkit.models.precision import at_least_float32

PLAIN: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    VisionTransformer: (Attention,),
    VisionTransformerDistilled: (Attention,),
    Eva: (EvaAttention, AttentionRope),
}
"""Networks whose attention can be read, and the attention classes that their blocks may have."""


class ClassTokenRows:
    """Forward hooks that read the class token's attention rows of a timm ViT for which `why_no_rows` returns None.

    The hooks are on `q_norm` and `k_norm` (identities in most networks): their outputs are the query and keys that a
    block passes to scaled-dot-product attention, before rotary positions. A hook before the attention keeps the
    rotation of the same call, since some networks draw another one for every batch in training. timm's forward is not
    changed, fused or not, with all of its gates, dropout and drop path, and its result stays the same bit for bit. If
    no row is wanted, nothing is computed. The network keeps its parameters and their names.

    A network may be called again while it is being read. Not thread-safe: one thread per network at a time.
    """

    def __init__(self, network: nn.Module) -> None:
        timm: Any = network
        self._prefix = int(timm.num_prefix_tokens)
        self._layers: Sequence[int] = ()
        self._rows: dict[int, Tensor] = {}
        self._query: Tensor | None = None
        self._rotation: Tensor | None = None
        for layer, block in enumerate(timm.blocks):
            block.attn.register_forward_pre_hook(partial(self._keep_rotation, layer), with_kwargs=True)
            block.attn.q_norm.register_forward_hook(partial(self._keep_query, layer))
            block.attn.k_norm.register_forward_hook(partial(self._compute_row, layer, block.attn))

    @contextmanager
    def reading(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collect the rows of `layers` while the network runs inside the `with` block: [B, A, 1 + N] by layer."""
        # Restored afterwards: the same network may be called again in the middle of a forward.
        before = self._layers, self._rows, self._query, self._rotation
        self._layers, self._rows, self._query, self._rotation = layers, {}, None, None
        try:
            yield self._rows
        finally:
            self._layers, self._rows, self._query, self._rotation = before

    def _keep_rotation(self, layer: int, _module: nn.Module, _inputs: Any, options: Mapping[str, Any]) -> None:
        if layer not in self._layers:
            return
        if options.get("attn_mask") is not None or options.get("is_causal"):
            raise SignalError("CLS attention cannot be read while the network runs with an attention mask; omit it")
        self._rotation = options.get("rope")  # [N, 2D], or with heads or a batch before: sines, then cosines

    def _keep_query(self, layer: int, _module: nn.Module, _inputs: Any, query: Tensor) -> None:
        if layer in self._layers:
            self._query = query[:, :, 0]  # [B, A, D]

    # Every attention of PLAIN calls q_norm before k_norm, so the query of the same block is there.
    def _compute_row(self, layer: int, attention: Any, _module: nn.Module, _inputs: Any, keys: Tensor) -> None:
        if layer not in self._layers or self._query is None:
            return
        if self._rotation is not None:
            keys = _rotated(keys, self._rotation, prefix_tokens=self._prefix, half=attention.rotate_half)
        shared_by = self._query.shape[1] // keys.shape[1]  # heads per key head, under grouped-query attention
        if shared_by > 1:
            keys = keys.repeat_interleave(shared_by, dim=1)
        self._rows[layer] = class_token_row(self._query, keys, scale=attention.scale, prefix_tokens=self._prefix)


def _rotated(keys: Tensor, rotation: Tensor, *, prefix_tokens: int, half: bool) -> Tensor:
    """The keys [B, A, P + N, D] with those of the patches rotated, as timm's attention does."""
    patches = apply_rot_embed_cat(keys[:, :, prefix_tokens:], rotation, half=half)  # [B, A, N, D]
    return torch.cat((keys[:, :, :prefix_tokens], patches), dim=2)


def class_token_row(query: Tensor, keys: Tensor, *, scale: float, prefix_tokens: int = 1) -> Tensor:
    """Softmax of the class token's query over the class token and the patches.

    Keys of other prefix tokens (distillation, registers) are left out before the softmax. The result equals the row
    over all keys without their entries, divided by its sum.
    Shapes: query [B, A, D], keys [B, A, P + N, D] with the class token first, then the P - 1 other prefix tokens; the
        row is [B, A, 1 + N], at least float32, under autocast too.
    """
    scores: Tensor = _Scores.apply(query, keys)
    if prefix_tokens > 1:
        scores = torch.cat((scores[..., :1], scores[..., prefix_tokens:]), dim=-1)  # [B, A, 1 + N]
    return torch.softmax(scale * scores, dim=-1)


class _Scores(torch.autograd.Function):
    """Dot products of one query with all keys: [B, A, D] and [B, A, N, D] to [B, A, N], at least float32.

    An autograd function to save memory: it saves query and keys as they are, which the block's attention saves anyway.
    Plain operations would save a copy of the keys: contiguous for a matrix product, or in float32 under autocast.
    """

    @staticmethod
    def forward(query: Tensor, keys: Tensor) -> Tensor:
        # Multiply and sum, not matmul: autocast does not lower their precision, and inductor fuses them into one pass.
        return (at_least_float32(query).unsqueeze(2) * keys).sum(dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's own
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        query, keys = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)  # [B, A, N, 1]
        query_gradient = (gradient * keys).sum(dim=2)  # [B, A, D]
        key_gradient = gradient * query.unsqueeze(2)  # [B, A, N, D]
        return query_gradient.to(query.dtype), key_gradient.to(keys.dtype)


def why_no_rows(network: nn.Module) -> str | None:
    """The reason why a timm network's class token rows cannot be read, as the end of a sentence; None if they can.

    They can if they depend on queries and keys alone, the class token comes first, and every patch is a key: in timm's
    `VisionTransformer`, `VisionTransformerDistilled` or `Eva`, with a class token and plain attention (`PLAIN`) in all
    blocks, with any norms, gates, residual scales or rotary positions. Everything else is refused, even if reading it
    might be possible.
    """
    # The exact type: a subclass may put its class token elsewhere or compute its attention in another way.
    plain = PLAIN.get(type(network))
    if plain is None:
        return _obstacle(network)
    if type(getattr(network, "patch_drop", None)) not in (nn.Identity, NoneType):
        return "it drops patches in training"
    vit = cast("VisionTransformer", network)
    is_plain = all(type(getattr(block, "attn", None)) in plain for block in vit.blocks)
    return None if is_plain and vit.cls_token is not None else _obstacle(network)


def _obstacle(network: nn.Module) -> str:
    """The first reason why the rows cannot be read."""
    kinds = " ".join(type(module).__name__ for module in network.modules())
    parameters = " ".join(name for name, _ in network.named_parameters())
    searched = f"{kinds} {parameters}".lower()
    attends = isinstance(network, VisionTransformer) or "attn" in searched or "attention" in searched
    windows = any("Block" in type(each).__name__ and getattr(each, "window_size", None) for each in network.modules())
    # In order: the first that holds is the reason that is shown.
    reasons = {
        "it has no attention": not attends,
        "its attention is windowed": windows or any(part in kinds for part in ("Window", "Partition", "MaskUnit")),
        "it is a NaFlex network, whose batches may be padded": isinstance(network, NaFlexVit),
        "its attention mixes the heads (talking heads)": "TalkingHead" in kinds,
        "its class token attends only in the last blocks": "ClassAtt" in kinds,
        "its attention adds a relative position bias": any(
            part in parameters for part in ("rel_pos", "relative_position", "attention_bias")
        ),
        "it has no class token": getattr(network, "cls_token", None) is None,
    }
    fallback = "its blocks have a custom attention"
    return next((reason for reason, holds in reasons.items() if holds), fallback)
