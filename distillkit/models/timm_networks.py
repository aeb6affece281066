"""timm networks by name: checked, built, and described on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models import is_model, list_models
from torch import Tensor, nn

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import first_line, nearest_multiples
from distillkit.models import timm_traits as traits
from distillkit.models.cls_attention import why_no_rows
from distillkit.models.meta_device import sketching
from distillkit.models.raw_tokens import RawPoints, raw_points, recorded_activations


@dataclass(frozen=True)
class TimmRequest:
    """A timm classifier as requested by a recipe.

    `architecture` may have a tag ("resnet18.a1_in1k"). `name` is what the user typed. With None, `image_size` and
    `classes` are the network's own. `arguments` are passed to `timm.create_model`.
    """

    architecture: str
    name: str
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network_arguments(self) -> dict[str, Any]:
        """Arguments of `timm.create_model` besides the architecture and the number of classes."""
        if self.image_size is None or not traits.has_fixed_size(self.architecture):
            return dict(self.arguments)
        return {**self.arguments, "img_size": self.image_size}


@dataclass(frozen=True)
class Trace:
    """Width and grid of each layer, and the length of the output, found by a forward of one image.

    `no_raw` is the reason why the raw tokens cannot be read, None if they can; `raw` are those of a CNN.
    """

    widths: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    outputs: int
    raw: RawPoints | None = None
    no_raw: str | None = None


class Sketch(NamedTuple):
    """A network on the meta device in evaluation mode, its description, and where a CNN's raw maps are."""

    network: nn.Module
    spec: ModelSpec
    raw: RawPoints | None


def check_architecture(architecture: str) -> None:
    """Refuse a name that timm does not know.

    Raises: RecipeError with the nearest name, or the known tags.
    """
    base, _, tag = architecture.partition(".")
    if not is_model(base):
        guess = nearest(base, list_models(), cutoff=0.7)  # one of a thousand names is always somewhat similar
        question = f"did you mean '{guess}'?" if guess else "`timm.list_models()` lists its models"
        raise RecipeError(f"timm {timm.__version__} has no model '{base}'; {question}")
    tags = [name.partition(".")[2] for name in list_models(f"{base}.*", include_tags=True)] if tag else []
    if tag and tag not in tags:
        known = f"known: {', '.join(tags)}" if tags else f"write '{base}' alone"
        raise RecipeError(f"timm {timm.__version__} has no weights '{tag}' for '{base}'; {known}")


def create_network(request: TimmRequest) -> nn.Module:
    """Build the network on torch's default device, from torch's current seed.

    Raises: RecipeError for an unknown name, a network that is not a classifier, or arguments that it does not accept.
    """
    check_architecture(request.architecture)
    arguments = request.network_arguments
    try:
        return timm.create_model(request.architecture, num_classes=request.classes, **arguments)
    except NotImplementedError:
        raise RecipeError(f"'{request.name}' is not a classifier; choose a timm model with a class head") from None
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        shown = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "its defaults"
        raise RecipeError(f"'{request.name}' cannot be built with {shown}: {first_line(error)}") from error


def describe_network(request: TimmRequest, class_names: tuple[str, ...] | None = None) -> ModelSpec:
    """Describe a network from a copy on the meta device; no memory is allocated and no random number drawn.

    Raises: as `create_network`; RecipeError for an image size that the network does not accept.
    """
    return sketch_network(request, class_names).spec


def sketch_network(request: TimmRequest, class_names: tuple[str, ...] | None = None) -> Sketch:
    """As `describe_network`, and return the copy on the meta device too, in evaluation mode."""
    with sketching():
        network = create_network(request).eval()
    size = request.image_size or cast("tuple[int, int]", tuple(traits.settings(network)["input_size"][1:]))
    with torch.device("meta"), torch.no_grad():
        trace = _trace(network, size, request)
    # A network that ignores num_classes shows it only in the length of its output.
    if request.classes and trace.outputs != request.classes:
        raise RecipeError(f"'{request.name}' is not a classifier; choose a timm model with a class head")
    return Sketch(network, _spec(network, request, size, trace, class_names), trace.raw)


def _spec(
    network: nn.Module,
    request: TimmRequest,
    size: tuple[int, int],
    trace: Trace,
    class_names: tuple[str, ...] | None,
) -> ModelSpec:
    settings = traits.settings(network)
    classes = cast("int", network.num_classes)
    no_attention = why_no_rows(network)
    return ModelSpec(
        name=request.name,
        architecture=request.architecture,
        kind=traits.kind(network),
        classes=classes,
        signals=_signals(network, trace) | ({Signal.CLS_ATTENTION} if no_attention is None else set()),
        image_size=size,
        layers=max(len(trace.widths), 1),
        widths=trace.widths,
        grids=trace.grids,
        heads=traits.attention_heads(network),
        prefix_tokens=traits.prefix_tokens(network),
        flexible_size=not settings.get("fixed_input_size", False) or bool(getattr(network, "dynamic_img_size", False)),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation=settings["interpolation"],
        crop=settings["crop_pct"],
        head_modules=traits.head_modules(network) if classes else (),
        class_names=class_names,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        licence=settings.get("license"),
        silent=_silent(network, trace, no_attention),
    )


def _silent(network: nn.Module, trace: Trace, no_attention: str | None) -> dict[Signal, str]:
    """Why signals that a user may expect are not revealed."""
    reasons: dict[Signal, str] = {}
    if no_attention is not None and traits.kind(network) != "cnn":
        reasons[Signal.CLS_ATTENTION] = no_attention
    if trace.widths and trace.no_raw is not None:
        reasons[Signal.RAW_TOKENS] = trace.no_raw
    return reasons


def last_map(features: Tensor, last_stage: Tensor) -> Tensor:
    """The map that the head pools, [B, D, h, w], if it has the last stage's grid; else the last stage's output."""
    return features if features.dim() == 4 and features.shape[2:] == last_stage.shape[2:] else last_stage


def _trace(network: nn.Module, size: tuple[int, int], request: TimmRequest) -> Trace:
    """Run one image [1, 3, H, W] through the network on the meta device."""
    images = torch.empty(1, 3, *size)
    _check_patches(network, size, request)
    try:
        return (_trace_tokens if traits.is_token_network(network) else _trace_maps)(network, images)
    except (RuntimeError, AssertionError, ValueError, AttributeError) as error:
        try:
            outputs = network(images)
        except (RuntimeError, AssertionError, ValueError) as refusal:
            rejected = f"images of {size[0]}x{size[1]} pixels"
            raise RecipeError(f"'{request.name}' does not accept {rejected}: {first_line(refusal)}") from error
        # The network works, but not its forward_intermediates: it reveals logits alone.
        return Trace((), (), outputs.shape[-1])


def _check_patches(network: nn.Module, size: tuple[int, int], request: TimmRequest) -> None:
    """Refuse a size of which a ViT would silently drop the edges, unless it was trained at that size."""
    embedding: Any = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    is_own = size == tuple(traits.settings(network)["input_size"][1:])
    if is_own or not isinstance(patch, tuple) or getattr(embedding, "dynamic_img_pad", False):
        return
    if size[0] % patch[0] or size[1] % patch[1]:
        raise RecipeError(
            f"'{request.name}' does not accept images of {size[0]}x{size[1]} pixels: the size is not a multiple of "
            f"its {patch[0]}x{patch[1]} patches; {nearest_multiples(size[0], patch[0])} would be"
        )


def _trace_tokens(network: Any, images: Tensor) -> Trace:
    """Trace of a token network from its first block: all blocks have the same width and grid."""
    outputs: list[Any] = []
    hook = network.blocks[0].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    (patches,) = network.forward_intermediates(images, indices=[0], stop_early=True, intermediates_only=True)
    hook.remove()
    _, width, rows, columns = patches.shape  # [1, D, h, w]
    depth = len(network.blocks)
    features = images.new_empty(1, traits.prefix_tokens(network) + rows * columns, width)
    is_sequence = [getattr(output, "shape", None) for output in outputs] == [features.shape]
    return Trace(
        (width,) * depth,
        ((rows, columns),) * depth,
        network.forward_head(features).shape[-1],
        no_raw=None if is_sequence else "its blocks do not return the sequence of its tokens",
    )


def _trace_maps(network: Any, images: Tensor) -> Trace:
    with torch.enable_grad(), recorded_activations(network) as made:  # the graph has the last operation of each map
        features, stages = network.forward_intermediates(images)
    maps = [*stages[:-1], last_map(features, stages[-1])]
    raw = raw_points(stages, made)
    pooled, last = maps[-1].shape[1], stages[-1].shape[1]
    no_raw = None if raw is not None else "a stage ends in an operation before which its map cannot be read"
    if pooled != last:
        no_raw = f"its last stage has {last:,} channels, and the map that its head pools {pooled:,}"
    return Trace(
        tuple(each.shape[1] for each in maps),
        tuple((each.shape[2], each.shape[3]) for each in maps),
        network.forward_head(features).shape[-1],
        raw,
        no_raw,
    )


def _signals(network: nn.Module, trace: Trace) -> frozenset[Signal]:
    signals = {Signal.EMBEDDING, Signal.PATCH_TOKENS} if trace.widths else set()
    if trace.widths and trace.no_raw is None:
        signals.add(Signal.RAW_TOKENS)
    if network.num_classes:
        signals.add(Signal.LOGITS)
        if traits.is_distilled(network):
            signals.add(Signal.DISTILL_LOGITS)
    return frozenset(signals)
