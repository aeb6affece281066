"""Ask the plugin of a teacher or a student for its description, and for the model."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from distillkit.contracts.model import Model, ModelRequest, ModelSpec, Outputs, Wanted
from distillkit.plugin.error_attribution import kind_of, refuse
from distillkit.plugin.plugin import Plugin


def describe_model(plugin: Plugin, request: ModelRequest) -> ModelSpec:
    """The plugin's description of the model.

    Raises: what `describe` raises; BrokenPluginError where it fails or returns something else.
    """
    spec = plugin.call("describe", request)
    if not isinstance(spec, ModelSpec):
        refuse(str(plugin), "describe", kind_of(spec), "a ModelSpec")
    return spec


def build_model(plugin: Plugin, request: ModelRequest) -> Model:
    """The model itself, on torch's default device.

    Raises: what `build` raises; BrokenPluginError where it fails or returns something else.
    """
    return check_model(plugin.call("build", request), str(plugin))


def check_model(model: object, author: str) -> Model:
    """`model`, where it is one. A protocol cannot tell: from Python 3.12 on isinstance misses sub-modules.

    Raises: BrokenPluginError that names `author`.
    """
    if not isinstance(model, nn.Module):
        refuse(author, "build", kind_of(model), "a torch.nn.Module")
    if not isinstance(getattr(model, "network", None), nn.Module):
        refuse(author, "build", "a model without 'network'", "a module with its network, which is saved and exported,")
    if not isinstance(getattr(model, "spec", None), ModelSpec):
        refuse(author, "build", "a model without 'spec'", "a module with its ModelSpec")
    return cast("Model", model)


class Described(nn.Module):
    """A model whose `spec` says more than its plugin could know: the names of the classes, or what the user typed."""

    def __init__(self, model: Model, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec

    @property
    def network(self) -> nn.Module:
        """The network of the model, which is thereby registered once."""
        return self.model.network

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        return self.model(images, wanted)
