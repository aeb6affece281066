"""`module:<name>`: a network given from Python, as in `distillkit.run(recipe, student=network, features="layer4")`."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from distillkit import ModelRequest, ModelSpec, RecipeError, Signal
from distillkit.models import ModuleModel, ModuleTrace, licensed, start_from, trace_modules
from distillkit_plugins.students.options import GivenModuleOptions

NO_FEATURES = 'features names none of its modules, as features="layer4" would'


class GivenModule:
    """Any network of the user: an nn.Module, whose weights are the initial ones, or a function that builds one.

    Layers: the outputs of the modules that `features` names: maps [B, C, H, W], or tokens [B, N, D] with or without a
    class token. The logits are the output of the network, if it has as many values as there are classes. What is saved
    is the state dict of the network.
    """

    Options = GivenModuleOptions
    given: ClassVar[Any] = None

    @classmethod
    def of(cls, given: Any) -> type[GivenModule]:
        """The factory for a network, or for a function that returns one."""
        return type(cls.__name__, (cls,), {"given": staticmethod(given)})

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student.

        Raises: RecipeError if it was not given in this process, or for features without a map or tokens.
        """
        return licensed(cls._sketch(request)[0], request.weights)

    @classmethod
    def build(cls, request: ModelRequest) -> ModuleModel:
        """Build the student: a copy of the given network, or a new one under torch's current seed.

        Raises: as `describe`; WeightsError, RunDirectoryError for weights that do not fit.
        """
        spec, trace = cls._sketch(request)
        network = cls._network(request).to(torch.get_default_device())
        model = ModuleModel(network, licensed(spec, request.weights), trace.layers, head=trace.head)
        model.load_report = start_from(model, request.weights)
        return model

    @classmethod
    def _network(cls, request: ModelRequest) -> nn.Module:
        """A copy of the given network, or a new one from the function. Raises: RecipeError if there is none."""
        if cls.given is None:
            raise RecipeError(
                f"student '{request.name}' was given from Python and cannot be built from its name; use Python: "
                "distillkit.resume(DIR, student=MODULE) continues its run, and load_student, evaluate and "
                "distillkit_export.export take plugins=distillkit.with_student(MODULE)"
            )
        try:
            network = deepcopy(cls.given) if isinstance(cls.given, nn.Module) else cls.given()
        except Exception as error:  # the user's own code
            raise RecipeError(
                f"student '{request.name}' cannot be built: {error}; give a network, or a function without arguments "
                "that builds one"
            ) from error
        if not isinstance(network, nn.Module):
            raise RecipeError(
                f"student '{request.name}' is a function that returns {type(network).__name__}; it has to return a "
                "torch.nn.Module"
            )
        if isinstance(network, ScriptModule):
            raise RecipeError(f"student '{request.name}' is a TorchScript module; give the torch.nn.Module it is from")
        if any(is_lazy(tensor) for tensor in _tensors(network)):
            raise RecipeError(
                f"student '{request.name}' has lazy modules, whose weights have no shapes yet; give it after one "
                "forward, or a function that builds it and runs one"
            )
        return network

    @classmethod
    def _on_meta(cls, request: ModelRequest) -> nn.Module:
        """The network without weights.

        Raises: RecipeError as `_network`, and for a function that returns the same weights again: moving them to the
            meta device would take them from the user, and training would change them.
        """
        with torch.random.fork_rng(devices=[]):
            network = cls._network(request)
            again = cls._network(request)
        if {id(tensor) for tensor in _tensors(network)} & {id(tensor) for tensor in _tensors(again)}:
            raise RecipeError(
                f"student '{request.name}' is a function that returns the same weights each time; build new modules in "
                "it, or give the network itself"
            )
        return network.to("meta")

    @classmethod
    def _sketch(cls, request: ModelRequest) -> tuple[ModelSpec, ModuleTrace]:
        """The description of the student, and how its layers and its head are found."""
        options = cast("GivenModuleOptions", request.options)
        network = cls._on_meta(request)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        trace = trace_modules(network, options.features, options.image_size, student=request.name)
        classes = (trace.outputs or 0) if request.classes is None else request.classes
        has_logits = classes > 0 and trace.outputs == classes
        values = "no vector of one value per class" if trace.outputs is None else f"{trace.outputs:,} values"
        spec = ModelSpec(
            name=request.name,
            architecture=request.name,
            kind=_kind(network),
            classes=classes,
            signals=frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS} if trace.layers else set())
            | ({Signal.LOGITS} if has_logits else set()),
            image_size=options.image_size,
            layers=max(len(trace.layers), 1),
            widths=tuple(layer.width for layer in trace.layers),
            grids=tuple(layer.grid for layer in trace.layers),
            prefix_tokens=trace.layers[-1].prefix if trace.layers else 0,
            mean=options.mean,
            std=options.std,
            head_modules=(trace.head,) if has_logits and trace.head is not None else (),
            class_names=request.class_names,
            parameters=parameters,
            silent={Signal.CLS_ATTENTION: "it was given from Python"}
            | ({} if has_logits else {Signal.LOGITS: f"its output has {values}, and there are {classes:,} classes"})
            | ({} if trace.layers else dict.fromkeys((Signal.EMBEDDING, Signal.PATCH_TOKENS), NO_FEATURES)),
        )
        return spec, trace


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers, of any shape."""
    return [*network.parameters(), *network.buffers()]


def _kind(network: nn.Module) -> Any:
    """The kind of a network: "cnn" has convolutions and no attention."""
    kinds = [type(module).__name__ for module in network.modules()]
    attends = any("Atten" in kind or "Attn" in kind for kind in kinds)
    return "cnn" if any("Conv2d" in kind for kind in kinds) and not attends else "other"
