"""A teacher and a student with one explicit attention layer, to read the class token's attention."""

from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from distillkit import ModelRequest, ModelSpec, Outputs, PluginSpec, Signal, Wanted
from distillkit.models import at_least_float32

SIGNALS = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.CLS_ATTENTION})


class Network(nn.Module):
    """Patches, a class token, one attention layer, a norm, and a class head if there are classes.

    Shapes: images [B, 3, H, W] to logits [B, K], or without classes to the embedding [B, D].
    """

    def __init__(self, patch: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width)
        if classes:
            self.head = nn.Linear(width, classes)

    def attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding [B, D] and the class token's attention [B, A, 1 + N]."""
        patches = self.patches(images).flatten(2).transpose(1, 2)  # [B, N, D]
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1)  # [B, 1 + N, D]
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, A, 1+N, d]
        scores = query[:, :, :1] @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        row = torch.softmax(at_least_float32(scores), dim=-1)  # [B, A, 1, 1 + N]
        attended = (row.to(value.dtype) @ value).flatten(1)  # [B, D]
        return self.norm(tokens[:, 0] + attended), row.squeeze(2)

    def forward(self, images: Tensor) -> Tensor:
        embedding, _ = self.attend(images)
        return self.head(embedding) if hasattr(self, "head") else embedding


class AttentiveViT(nn.Module):
    """The network as a distillkit model; without classes it reveals no logits."""

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """The geometry."""

        image_size: Annotated[tuple[int, int], Field(strict=False)] = (32, 48)
        patch: int = 16
        width: int = 12
        heads: int = 3

    def __init__(self, network: Network, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        options, classes = request.options, request.classes or 0
        with torch.device("meta"):
            network = Network(options.patch, options.width, options.heads, classes)
        height, width = options.image_size
        return ModelSpec(
            name=request.name,
            architecture="attentive",
            kind="vit",
            classes=classes,
            signals=SIGNALS if classes else SIGNALS - {Signal.LOGITS},
            image_size=(height, width),
            layers=1,
            widths=(options.width,),
            grids=((height // options.patch, width // options.patch),),
            heads=options.heads,
            prefix_tokens=1,
            head_modules=("head",) if classes else (),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        )

    @classmethod
    def build(cls, request: ModelRequest) -> "AttentiveViT":
        options = request.options
        network = Network(options.patch, options.width, options.heads, request.classes or 0)
        return cls(network, cls.describe(request))

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        embedding, row = self.network.attend(images)
        return Outputs(
            logits=at_least_float32(self.network.head(embedding)) if Signal.LOGITS in wanted else None,
            embedding=(at_least_float32(embedding),) if Signal.EMBEDDING in wanted else (),
            cls_attention=row[:, None] if Signal.CLS_ATTENTION in wanted else None,
        )


class Finer(AttentiveViT):
    """The teacher: patches of 8 pixels, six heads, and no classes."""

    class Options(AttentiveViT.Options):
        """The geometry."""

        patch: int = 8
        width: int = 18
        heads: int = 6

    @classmethod
    def build(cls, request: ModelRequest) -> AttentiveViT:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return super().build(request)


def distillkit_students() -> list[PluginSpec]:
    factory = "contract_attentive_vit:AttentiveViT"
    return [PluginSpec(name="attentive", summary="one attention layer", factory=factory, signals=SIGNALS)]


def distillkit_teachers() -> list[PluginSpec]:
    factory = "contract_attentive_vit:Finer"
    signals = SIGNALS - {Signal.LOGITS}
    return [PluginSpec(name="finer", summary="one attention layer, finer patches", factory=factory, signals=signals)]
