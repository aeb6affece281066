"""Contract of a model: the signals it reveals, its description, and how it is built.

Does not import torch at run time, so that listing plugins and printing help stay fast.

Letters in shapes: B batch, C channels, H W pixels, L layers, A heads, N patches, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn


class Signal(StrEnum):
    """Kind of output that a model can reveal and a loss can read."""

    LOGITS = "logits"
    DISTILL_LOGITS = "distill_logits"
    EMBEDDING = "embedding"
    CLS_ATTENTION = "cls_attention"
    PATCH_TOKENS = "patch_tokens"
    RAW_TOKENS = "raw_tokens"


ImageSize: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""
Layers: TypeAlias = Literal["last", "all"] | tuple[int, ...]


Wanted: TypeAlias = Mapping[Signal, tuple[int, ...]]
"""The signals to compute, each with its layers in ascending order. LOGITS and DISTILL_LOGITS map to ()."""


LAYERED = frozenset({Signal.EMBEDDING, Signal.CLS_ATTENTION, Signal.PATCH_TOKENS, Signal.RAW_TOKENS})
"""The signals that exist once per layer."""

PERMISSIVE = frozenset({"apache-2.0", "bsd-3-clause", "mit", "unknown"})
"""Licences of weights without terms that could extend to a model taught by them, and timm's word for none stated."""


@dataclass(frozen=True)
class Read:
    """One signal that a loss reads, with its layers.

    `layers` counts from 0; "last" is the last layer, "all" is every layer. Ignored for logits.
    """

    signal: Signal
    layers: Layers = "last"

    def indices(self, spec: ModelSpec) -> tuple[int, ...]:
        """Indices of the layers to read from a model, in the order in which the loss receives them."""
        if self.signal not in LAYERED:
            return ()
        if self.layers == "last":
            return (spec.layers - 1,)
        if self.layers == "all":
            return tuple(range(spec.layers))
        return self.layers


@dataclass(frozen=True)
class Outputs:
    """Outputs of one model for one batch. A signal that was not requested is None or empty.

    Shapes:
        logits           [B, K]
        distill_logits   [B, K]; adapters return both heads in training and in evaluation
        embedding        one [B, D_i] per layer read: the class token after the final norm, or the pooled feature
        cls_attention    [B, L, A, 1 + N]: the softmax row of the class token's query over the class token and the
                         patches; keys of distillation and register tokens are removed, the rest is renormalised to 1
        patch_tokens     one [B, N_i, D_i] per layer read, row-major over the layer's grid: of a ViT's block after the
                         final norm, of a CNN's stage after its last activation
        raw_tokens       as patch_tokens, but of a ViT's block without the final norm, of a CNN's stage before its last
                         activation
    All are at least float32, also under autocast; float64 stays float64.
    """

    logits: Tensor | None = None
    distill_logits: Tensor | None = None
    embedding: tuple[Tensor, ...] = ()
    cls_attention: Tensor | None = None
    patch_tokens: tuple[Tensor, ...] = ()
    raw_tokens: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model, made from its options on the meta device without loading weights.

    `layers` counts transformer blocks, or the stages of a convolutional network.
    `widths` and `grids` have one entry per layer: the width D_i and the (rows, columns) of the patch tokens.
    `image_size` is (height, width) in pixels. `flexible_size` means that other sizes work without rebuilding.
    `head_modules` names the sub-modules of `network` that depend on the number of classes.
    `orientation` says whether images are turned as their EXIF orientation says, or used as stored.
    `background` and `grey16` are those of the recipe's `[data]`.
    `class_names` is None if the names are unknown. `silent` gives the reason why an expected signal is not revealed, as
    the end of a sentence: "its attention is windowed".
    `licence` is that of the weights. `taught_under` are the licences of the weights that taught the model, directly or
    through other models, where a licence may extend to what is derived from the weights.
    """

    name: str
    architecture: str
    kind: Literal["vit", "cnn", "other"]
    classes: int
    signals: frozenset[Signal]
    image_size: tuple[int, int]
    layers: int = 1
    widths: tuple[int, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    heads: int | None = None
    prefix_tokens: int = 0
    flexible_size: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet, as is std
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop: float = 0.875  # 224 / 256
    orientation: Literal["exif", "stored"] = "exif"
    background: str = "white"
    grey16: Literal["refuse", "scale"] = "refuse"
    head_modules: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    parameters: int = 0
    licence: str | None = None
    taught_under: tuple[str, ...] = ()
    silent: Mapping[Signal, str] = field(default_factory=dict, hash=False)  # a dict is not hashable

    @property
    def passed_on_licences(self) -> tuple[str, ...]:
        """The licences that a student of this model is taught under: its own, unless permissive, and `taught_under`."""
        own = () if self.licence is None or self.licence in PERMISSIVE else (self.licence,)
        return tuple(dict.fromkeys((*own, *self.taught_under)))

    @property
    def width(self) -> int:
        """Width D of the last layer."""
        return self.widths[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Grid of the last layer, (rows, columns)."""
        return self.grids[-1]


@dataclass(frozen=True)
class ModelRequest:
    """Request of a recipe to a model plugin.

    `name` is as typed, `argument` is the text after its colon. `options` is an instance of the factory's `Options`.
    `weights` is a file, "pretrained", "none", or None for the plugin's default.
    `classes` is the number of classes of a student. With None the model keeps its own number. With 0 it has no class
    head, because neither labels nor a loss train one, and the network's forward returns the embedding.
    `class_names` are the names of these classes, if known; the student's weights may be for other classes.
    """

    name: str
    argument: str | None
    options: Any
    weights: str | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None


class Model(Protocol):
    """A built teacher or student: an nn.Module around `network`, which is the part that is saved and exported.

    Shapes: `forward(images, wanted)` takes images [B, C, H, W], normalised with `spec.mean` and `spec.std`, and returns
    exactly the wanted signals, see `Outputs`. It returns both heads in training and in evaluation.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def network(self) -> nn.Module: ...

    def __call__(self, images: Tensor, wanted: Wanted) -> Outputs: ...


class TeacherView(Protocol):
    """A teacher of a run, called with the student's images, which it converts to its own normalisation and size.

    Shapes: a call takes images [B, C, H, W], normalised for the student, and returns the wanted signals, see `Outputs`.
    """

    @property
    def spec(self) -> ModelSpec: ...

    def see(self, images: Tensor) -> Tensor:
        """The images [B, C, H', W'] that the teacher receives, in its normalisation and size, from [B, C, H, W]."""

    def __call__(self, images: Tensor, wanted: Wanted) -> Outputs: ...


class ModelFactory(Protocol):
    """The class that `PluginSpec.factory` of a teacher or student names.

    `Options` is a frozen pydantic model; unknown keys are errors.
    """

    @property
    def Options(self) -> type[BaseModel]: ...  # noqa: N802 - mypy accepts a nested class for a property of this name

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the model on the meta device. May read the header of a weight file; must not download."""

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the model on torch's default device: the CPU, or "meta" for a plan.

        A teacher has its weights loaded, or random ones for "none". A plan builds it on "meta", with the weight file if
        the recipe has one; `distillkit.models.read_weights` then reads the header only. A student is initialised under
        torch's current seed, then loads `request.weights` if given (`distillkit.models.start_from` handles both cases).
        """
