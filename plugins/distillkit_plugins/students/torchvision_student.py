"""`torchvision:<any classifier>` as a student."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, cast

import torch
import torchvision
from torch import nn
from torchvision.models import VisionTransformer, get_model, get_model_weights, list_models
from torchvision.models.swin_transformer import SwinTransformer

from distillkit import ModelRequest, ModelSpec, RecipeError, Signal
from distillkit.models import (
    ModuleModel,
    ModuleTrace,
    licensed,
    nearest_multiples,
    run_traced,
    sketching,
    start_from,
    trace_modules,
)
from distillkit_plugins.students.options import TorchvisionOptions

PREFIX = "torchvision/"
"""Before the architecture in a spec, so that it is not taken for timm's of the same name."""
OF_VIT, OF_SWIN = ("encoder.ln",), ("features.1", "features.3", "features.5", "norm")
"""The layers of networks whose modules return no maps [B, C, H, W]: tokens, and maps [B, H, W, C]."""


class TorchvisionStudent:
    """Any classifier of torchvision: "torchvision:resnet18", "torchvision:convnext_tiny".

    Layers: the stages, each the last map before the resolution falls; of a ViT the tokens after the last norm. The
    saved weights load into `torchvision.models.get_model(name, num_classes=K)`. A student without classes has
    identities in place of its classifier's linear layers and what follows them.
    """

    Options = TorchvisionOptions

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student.

        Raises: RecipeError for a name that torchvision does not know, or a size that the network does not accept.
        """
        return licensed(_sketch(request)[0], request.weights)

    @classmethod
    def build(cls, request: ModelRequest) -> ModuleModel:
        """Build the student under torch's current seed, and load its starting weights, if any.

        Raises: as `describe`; WeightsError, RunDirectoryError for weights that do not fit.
        """
        spec, trace = _sketch(request)
        network = _network(request)
        classifier = _classifier(network, trace)
        if not spec.classes:
            _remove(network, classifier)
        model = ModuleModel(network, licensed(spec, request.weights), trace.layers, head=classifier[0])
        model.load_report = start_from(model, request.weights)
        return model


def _sketch(request: ModelRequest) -> tuple[ModelSpec, ModuleTrace]:
    """The description of a student, and how its layers and its head are found."""
    name, preset = _checked(request), get_model_weights(_checked(request)).DEFAULT.transforms()
    size = cast("TorchvisionOptions", request.options).image_size or (preset.crop_size[0], preset.crop_size[0])
    classes = 1000 if request.classes is None else request.classes
    with sketching():
        network = _network(request)
    is_swin, is_vit = isinstance(network, SwinTransformer), isinstance(network, VisionTransformer)
    stages = OF_VIT if is_vit else OF_SWIN if is_swin else tuple(_stages(network, size, request.name))
    trace = trace_modules(network, stages, size, student=request.name, channels_last=is_swin)
    if not classes:
        _remove(network, _classifier(network, trace))
    spec = ModelSpec(
        name=request.name,
        architecture=PREFIX + name,
        kind="vit" if is_vit else "other" if is_swin or name.startswith("maxvit") else "cnn",
        classes=classes,
        signals=frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS}) | ({Signal.LOGITS} if classes else set()),
        image_size=size,
        layers=len(trace.layers),
        widths=tuple(layer.width for layer in trace.layers),
        grids=tuple(layer.grid for layer in trace.layers),
        prefix_tokens=trace.layers[-1].prefix,
        flexible_size=not is_vit and not name.startswith("maxvit"),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop=preset.crop_size[0] / preset.resize_size[0],
        head_modules=(trace.head,) if classes and trace.head is not None else (),
        class_names=request.class_names,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        silent={Signal.CLS_ATTENTION: "it is torchvision's"},
    )
    return spec, trace


def _checked(request: ModelRequest) -> str:
    """The name of the model in torchvision. Raises: RecipeError."""
    name, known = request.argument or "", list_models(module=torchvision.models)
    if name not in known:
        guesses = get_close_matches(name, known, n=1)
        listing = "`torchvision.models.list_models(torchvision.models)` lists them"
        question = f"did you mean '{guesses[0]}'?" if guesses else listing
        raise RecipeError(f"torchvision {torchvision.__version__} has no classifier '{name}'; {question}")
    return name


def _network(request: ModelRequest) -> nn.Module:
    """The network with the classes of the request, or with 1 class in place of none."""
    name = _checked(request)
    size = cast("TorchvisionOptions", request.options).image_size
    arguments: dict[str, Any] = {"num_classes": 1000 if request.classes is None else request.classes or 1}
    # Without the heads that only training uses, whose outputs the others do not have.
    if name in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": False, "init_weights": True}
    if size is not None and (name.startswith("vit_") or name == "maxvit_t"):
        if size[0] != size[1]:
            raise RecipeError(f"student '{request.name}' needs square images; student.image_size is {list(size)}")
        patch = int(name.rpartition("_")[2]) if name.startswith("vit_") else 1
        if size[0] % patch:
            raise RecipeError(
                f"student.image_size = {size[0]} is not divisible by the patches of '{request.name}', {patch}; "
                f"{nearest_multiples(size[0], patch)} would be"
            )
        arguments |= {"image_size": size[0]} if name.startswith("vit_") else {"input_size": size}
    try:
        return cast("nn.Module", get_model(name, weights=None, **arguments))
    except NotImplementedError:
        # A RegNet computes its widths with tensors, which the meta device cannot.
        device = torch.get_default_device()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return cast("nn.Module", get_model(name, weights=None, **arguments)).to(device)
    except ValueError as error:
        raise RecipeError(f"student '{request.name}' cannot be built: {error}") from error


def _classifier(network: nn.Module, trace: ModuleTrace) -> list[str]:
    """Names of the classifier's modules: those from the first linear layer in the head's sequence on, or the head."""
    head = cast("str", trace.head)  # every classifier of torchvision ends in a linear layer or a convolution
    parent = head.rpartition(".")[0]
    sequence = [f"{parent}.{name}" for name, _ in network.get_submodule(parent).named_children()] if parent else [head]
    linear = [name for name in sequence if isinstance(network.get_submodule(name), nn.Linear)]
    return sequence[sequence.index(linear[0]) :] if linear else [head]


def _remove(network: nn.Module, modules: list[str]) -> None:
    """Replace modules by identities."""
    for name in modules:
        network.set_submodule(name, nn.Identity())


def _stages(network: nn.Module, size: tuple[int, int], student: str) -> Iterator[str]:
    """Names of the modules that return the last map of each resolution."""
    _, calls = run_traced(network.eval(), size, student=student)
    trunk = set(_trunk(network))
    last = {tuple(output.shape[2:]): name for name, output in calls if name in trunk and output.dim() == 4}
    return iter(last.values())


def _trunk(network: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the modules that are called one after another, up to the pooling or the classifier."""
    for name, module in network.named_children():
        if isinstance(module, nn.AdaptiveAvgPool2d) or (not prefix and name in ("classifier", "fc")):
            return
        yield prefix + name
        if type(module) in (nn.Sequential, nn.ModuleList):
            yield from _trunk(module, f"{prefix}{name}.")
