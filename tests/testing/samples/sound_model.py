"""A model that satisfies the contract; the bad models of the tests each violate one requirement."""

from dataclasses import replace

import torch
from pydantic import BaseModel
from torch import nn

from distillkit import ModelSpec, Outputs, Signal

WIDTH, LAYERS, HEADS = 9, 2, 3


class Network(nn.Module):
    """Patches of 4 pixels, two layers, a head for the classes and one for distillation."""

    def __init__(self, classes):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, classes)
        self.head_dist = nn.Linear(WIDTH, classes)

    def layers(self, images):
        """The tokens after each layer, [B, N, D]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # [B, N, D]
        outputs = []
        for block in self.blocks:
            tokens = torch.tanh(block(tokens))
            outputs.append(tokens)
        return outputs


class SoundModel(nn.Module):
    """Reveals every signal."""

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        pass

    def __init__(self, network, spec):
        super().__init__()
        self.network = network
        self.spec = spec

    @classmethod
    def describe(cls, request):
        with torch.device("meta"):
            network = Network(request.classes or 4)
        return ModelSpec(
            name=request.name,
            architecture="sound",
            kind="vit",
            classes=request.classes or 4,
            signals=frozenset(Signal),
            image_size=(8, 12),
            layers=LAYERS,
            widths=(WIDTH,) * LAYERS,
            grids=((2, 3),) * LAYERS,
            heads=HEADS,
            prefix_tokens=2,
            flexible_size=True,
            head_modules=("head", "head_dist"),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        )

    @classmethod
    def build(cls, request):
        return cls(Network(request.classes or 4), cls.describe(request))

    def forward(self, images, wanted):
        values = self.signals(images, wanted)
        return Outputs(**{signal.value: value for signal, value in values.items() if signal in wanted})

    def signals(self, images, wanted):
        layers = self.network.layers(images)
        pooled = [tokens.mean(dim=1) for tokens in layers]
        return {
            Signal.LOGITS: precise(self.network.head(pooled[-1])),
            Signal.DISTILL_LOGITS: precise(self.network.head_dist(pooled[-1])),
            Signal.EMBEDDING: tuple(precise(pooled[layer]) for layer in wanted.get(Signal.EMBEDDING, ())),
            Signal.PATCH_TOKENS: tuple(precise(layers[layer]) for layer in wanted.get(Signal.PATCH_TOKENS, ())),
            Signal.RAW_TOKENS: tuple(precise(layers[layer]) for layer in wanted.get(Signal.RAW_TOKENS, ())),
            Signal.CLS_ATTENTION: attention([layers[layer] for layer in wanted.get(Signal.CLS_ATTENTION, ())]),
        }


def precise(values):
    return values.to(torch.promote_types(values.dtype, torch.float32))


def attention(layers):
    """Attention rows [B, L, A, 1 + N]; every head uses three of the channels."""
    if not layers:
        return None
    rows = []
    for tokens in layers:
        keys = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)  # [B, 1 + N, D]
        rows.append(torch.softmax(precise(keys).unflatten(2, (HEADS, -1)).sum(dim=3), dim=1).transpose(1, 2))
    return torch.stack(rows, dim=1)


def describing(**changes):
    """A sound model with a changed description, which it also builds."""

    class Described(SoundModel):
        @classmethod
        def describe(cls, request):
            return replace(super().describe(request), **changes)

    return Described
