"""Describe and build a model with its teacher or student plugin."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from distillkit.contracts.model import Model, ModelRequest, ModelSpec, Outputs, Wanted
from distillkit.plugin.error_attribution import kind_of, refuse
from distillkit.plugin.plugin import Plugin


def describe_model(plugin: Plugin, request: ModelRequest) -> ModelSpec:
    """The ModelSpec that a plugin returns for a request.

    Raises: what `describe` raises; BrokenPluginError if it fails or returns something else.
    """
    spec = plugin.call("describe", request)
    if not isinstance(spec, ModelSpec):
        refuse(str(plugin), "describe", kind_of(spec), "a ModelSpec")
    return spec


def build_model(plugin: Plugin, request: ModelRequest) -> Model:
    """Build the model with its plugin, on torch's default device.

    Raises: what `build` raises; BrokenPluginError if it fails or returns something else.
    """
    return check_model(plugin.call("build", request), str(plugin))


def check_model(model: object, author: str) -> Model:
    """Check that an object implements `Model`, and return it.

    Raises: BrokenPluginError that names `author`.
    """
    # Not isinstance with a runtime-checkable protocol: from Python 3.12 on it misses sub-modules.
    if not isinstance(model, nn.Module):
        refuse(author, "build", kind_of(model), "a torch.nn.Module")
    if not isinstance(getattr(model, "network", None), nn.Module):
        refuse(author, "build", "a model without 'network'", "a module whose 'network' is an nn.Module")
    if not isinstance(getattr(model, "spec", None), ModelSpec):
        refuse(author, "build", "a model without 'spec'", "a module whose 'spec' is a ModelSpec")
    return cast("Model", model)


class Described(nn.Module):
    """A model with another `spec` than its plugin gave it: with class names, or with the name that the user typed.

    Shapes: as the wrapped model's: images [B, C, H, W] to its `Outputs`.
    """

    def __init__(self, model: Model, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec

    @property
    def network(self) -> nn.Module:
        """The model's network."""
        # A property: as an attribute it would be registered twice, and its weights would be in the state dict twice.
        return self.model.network

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        return self.model(images, wanted)
