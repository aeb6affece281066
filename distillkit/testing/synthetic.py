"""Model specs without models, and random outputs of the right shapes, for checking losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from distillkit.contracts.loss import BatchInfo
from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal
from distillkit.contracts.signal_matching import restrict, wanted_signals

# All sizes differ from one another, so that swapped axes are detected.
CLASSES = 7
SAMPLES = 6
INDEX = torch.arange(SAMPLES)


@dataclass(frozen=True)
class Pair:
    """A student and a teacher that a loss may be built for."""

    title: str
    student: ModelSpec
    teacher: ModelSpec


def vit(name: str, *, layers: int, width: int, heads: int, grid: tuple[int, int], distilled: bool = False) -> ModelSpec:
    """Describe a vision transformer, with or without a distillation token."""
    signals = {Signal.LOGITS, Signal.EMBEDDING, Signal.CLS_ATTENTION, Signal.PATCH_TOKENS, Signal.RAW_TOKENS}
    if distilled:
        signals.add(Signal.DISTILL_LOGITS)
    return ModelSpec(
        name=name,
        architecture="paper",
        kind="vit",
        classes=CLASSES,
        signals=frozenset(signals),
        image_size=(4 * grid[0], 4 * grid[1]),
        layers=layers,
        widths=(width,) * layers,
        grids=(grid,) * layers,
        heads=heads,
        prefix_tokens=2 if distilled else 1,
    )


def cnn(name: str, *, widths: tuple[int, ...]) -> ModelSpec:
    """Describe a convolutional network whose stages halve the grid, down to one row and two columns."""
    stages = len(widths)
    grids = tuple((2**stage, 2 ** (stage + 1)) for stage in reversed(range(stages)))
    return ModelSpec(
        name=name,
        architecture="paper",
        kind="cnn",
        classes=CLASSES,
        signals=frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS}),
        image_size=(2 ** (stages + 1), 2 ** (stages + 2)),
        layers=stages,
        widths=widths,
        grids=grids,
        flexible_size=True,
    )


_STUDENT = vit("paper-distilled-vit", layers=12, width=8, heads=2, grid=(3, 4), distilled=True)
PAIRS = (
    Pair("ViT from a ViT of the same size", _STUDENT, vit("paper-vit", layers=12, width=8, heads=2, grid=(3, 4))),
    Pair(
        "ViT from a larger ViT",
        vit("paper-small-vit", layers=4, width=6, heads=3, grid=(2, 5)),
        vit("paper-large-vit", layers=12, width=10, heads=5, grid=(4, 10)),
    ),
    Pair("ViT from a CNN", _STUDENT, cnn("paper-cnn", widths=(3, 5, 9, 11))),
    Pair("CNN from a CNN", cnn("paper-small-cnn", widths=(2, 4, 6, 8)), cnn("paper-cnn", widths=(3, 5, 9, 11))),
)
"""Default pairs of `check_loss`."""


def synthetic_outputs(spec: ModelSpec, reads: Iterable[Read], *, seed: int) -> Outputs:
    """Random outputs of a model with this spec for one loss, B = SAMPLES images, in float64.

    Shapes: as `Outputs`, such as logits [B, K] and cls_attention [B, L, A, 1 + N].
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn((SAMPLES, *shape), generator=generator, dtype=torch.float64)

    def tokens(layer: int) -> Tensor:
        return noise(math.prod(spec.grids[layer]), spec.widths[layer])

    reads = tuple(reads)
    wanted = wanted_signals(reads, spec)
    attention = wanted.get(Signal.CLS_ATTENTION, ())
    rows, columns = spec.grid
    everything = Outputs(
        logits=3 * noise(spec.classes),
        distill_logits=3 * noise(spec.classes),
        embedding=tuple(noise(spec.widths[layer]) for layer in wanted.get(Signal.EMBEDDING, ())),
        cls_attention=functional.softmax(2 * noise(len(attention), spec.heads or 1, 1 + rows * columns), dim=-1),
        patch_tokens=tuple(tokens(layer) for layer in wanted.get(Signal.PATCH_TOKENS, ())),
        raw_tokens=tuple(tokens(layer) for layer in wanted.get(Signal.RAW_TOKENS, ())),
    )
    return restrict(everything, wanted, reads, spec)


def synthetic_batch(classes: int, kind: Literal["labelled", "partly", "unlabelled"] = "labelled") -> BatchInfo:
    """Smoothed and mixed labels [B, K] and label mass [B] for B = SAMPLES images, in float64.

    "partly" leaves every second image unlabelled.
    """
    if kind == "unlabelled":
        return BatchInfo(None, torch.zeros(SAMPLES, dtype=torch.float64), progress=0.5, index=INDEX)
    classes_in_turn = torch.arange(SAMPLES) % classes
    first = functional.one_hot(classes_in_turn, classes).double()
    second = functional.one_hot(classes_in_turn.flip(0), classes).double()
    labels = 0.6 * first + 0.3 * second + 0.1 / classes
    mass = torch.ones(SAMPLES, dtype=torch.float64)
    if kind == "partly":
        mass[::2] = 0
    return BatchInfo(labels * mass[:, None], mass, progress=0.5, index=INDEX)


def map_outputs(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """Apply `change` to every tensor of outputs, any shape."""

    def change_any(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    return Outputs(
        logits=change_any(outputs.logits),
        distill_logits=change_any(outputs.distill_logits),
        embedding=tuple(change(tensor) for tensor in outputs.embedding),
        cls_attention=change_any(outputs.cls_attention),
        patch_tokens=tuple(change(tensor) for tensor in outputs.patch_tokens),
        raw_tokens=tuple(change(tensor) for tensor in outputs.raw_tokens),
    )


def map_batch(batch: BatchInfo, change: Callable[[Tensor], Tensor]) -> BatchInfo:
    """Apply `change` to labels [B, K], label mass [B] and index [B] of a batch; the index stays int64."""
    labels = None if batch.labels is None else change(batch.labels)
    index = None if batch.index is None else change(batch.index).to(torch.int64)
    return replace(batch, labels=labels, label_mass=change(batch.label_mass), index=index)
