"""Feature extraction: one vector per image from a frozen model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.model import ModelSpec, Outputs, Signal, Wanted
from distillkit.evaluation.gather import gather_rows
from distillkit.plugin.runtime_checks import forward_signals


@dataclass(frozen=True)
class View:
    """Definition of the feature vector: the embeddings of the last `blocks` layers, concatenated from shallow to deep.

    With `patch_mean`, the mean of the last layer's patch tokens follows.
    """

    blocks: int = 1
    patch_mean: bool = False

    def wanted(self, spec: ModelSpec) -> Wanted:
        """Signals and layers that the vector is made of."""
        last = spec.layers - 1
        embeddings = {Signal.EMBEDDING: tuple(range(spec.layers - self.blocks, spec.layers))}
        return embeddings | ({Signal.PATCH_TOKENS: (last,)} if self.patch_mean else {})

    def width(self, spec: ModelSpec) -> int:
        """The length D of the vector."""
        return sum(spec.widths[-self.blocks :]) + (spec.width if self.patch_mean else 0)

    def of(self, outputs: Outputs) -> Tensor:
        """Feature vectors [B, D] of a batch, float32."""
        means = [tokens.mean(dim=1) for tokens in outputs.patch_tokens] if self.patch_mean else []
        return torch.cat([*outputs.embedding, *means], dim=1).float()  # [B, D]

    def __str__(self) -> str:
        """For reports: "the embedding of the last 4 layers"."""
        layers = "layer" if self.blocks == 1 else f"{self.blocks} layers"
        return f"the embedding of the last {layers}" + (" and the mean of its patch tokens" if self.patch_mean else "")


@dataclass(frozen=True)
class Features:
    """Feature vectors and labels of images, on the CPU. Shapes: values [n, D] float32; labels [n] int64."""

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, chosen: Tensor) -> Features:
        """The features of the images with indices `chosen`, [m]."""
        return Features(self.values[chosen], self.labels[chosen])


@torch.no_grad()
def extract(
    model: nn.Module,
    spec: ModelSpec,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    images: int,
    view: View,
    processes: Processes = ALONE,
) -> Features:
    """Extract the features of all images, each once, in evaluation mode and float32.

    `images` is the number of images, or more. At most one batch is on the device. With several processes each computes
    its own `batches` and gets the features of all, in the order of one process.
    Shapes: batches of (images [b, C, H, W], labels [b]).
    """
    wanted, was_training = view.wanted(spec), model.training
    model.eval()
    labels = torch.empty(images, dtype=torch.int64)
    # Allocated at once: concatenating the batches at the end would need twice the memory.
    values = torch.empty(images, 0)
    seen, sizes = 0, []
    for pixels, classes in batches:
        vectors = view.of(forward_signals(model, pixels, wanted))
        if not seen:
            values = torch.empty(images, vectors.shape[1])
        values[seen : seen + len(vectors)] = vectors.cpu()
        labels[seen : seen + len(vectors)] = classes.cpu()
        seen += len(vectors)
        sizes.append(len(vectors))
    model.train(was_training)
    return Features(gather_rows(values[:seen], sizes, processes), gather_rows(labels[:seen], sizes, processes))
