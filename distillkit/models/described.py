"""The same model under another description."""

from __future__ import annotations

from torch import Tensor, nn

from distillkit.contracts.model import Model, ModelSpec, Outputs, Wanted


class Described(nn.Module):
    """A model whose `spec` says more than its plugin could know: the names of the classes, or what the user typed."""

    def __init__(self, model: Model, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.network = model.network
        self.spec = spec

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        return self.model(images, wanted)
