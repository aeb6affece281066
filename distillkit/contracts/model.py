"""What models promise: the signals they reveal, how they are described, and how they are built.

Nothing here imports torch at run time, so that listing plugins and printing help stay fast.

The letters in shapes: B batch, C channels, H W pixels (H also heads beside L), L layers, N patches, D width, K classes.
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
    """What a model can reveal about a batch."""

    LOGITS = "logits"
    DISTILL_LOGITS = "distill_logits"
    EMBEDDING = "embedding"
    CLS_ATTENTION = "cls_attention"
    PATCH_TOKENS = "patch_tokens"


ImageSize: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""
Layers: TypeAlias = Literal["last", "all"] | tuple[int, ...]


Wanted: TypeAlias = Mapping[Signal, tuple[int, ...]]
"""The signals to switch on, each with the layers it is wanted of, ascending. LOGITS and DISTILL_LOGITS map to ()."""


LAYERED = frozenset({Signal.EMBEDDING, Signal.CLS_ATTENTION, Signal.PATCH_TOKENS})
"""The signals that exist once per layer."""


@dataclass(frozen=True)
class Read:
    """One signal that a loss reads, and of which layers.

    `layers` counts from 0; "last" is the last layer, "all" is every layer. It is ignored for logits.
    """

    signal: Signal
    layers: Layers = "last"

    def indices(self, spec: ModelSpec) -> tuple[int, ...]:
        """The layers of `spec` that this read asks for, in the order in which the loss will get them."""
        if self.signal not in LAYERED:
            return ()
        if self.layers == "last":
            return (spec.layers - 1,)
        if self.layers == "all":
            return tuple(range(spec.layers))
        return self.layers


@dataclass(frozen=True)
class Outputs:
    """What one model said about one batch. A signal that nobody reads is None or empty.

    Shapes:
        logits           [B, K]
        distill_logits   [B, K]; adapters return both heads in training and in evaluation
        embedding        one [B, D_i] per layer read: the class token after the final norm, or the pooled feature
        cls_attention    [B, L, H, 1 + N]: the softmax row of the class token's query over the class token and the
                         patches; keys of distillation and register tokens are removed and the rest divided by its sum
        patch_tokens     one [B, N_i, D_i] per layer read, row-major over the layer's grid
    All are at least float32; what is float64 stays float64.
    """

    logits: Tensor | None = None
    distill_logits: Tensor | None = None
    embedding: tuple[Tensor, ...] = ()
    cls_attention: Tensor | None = None
    patch_tokens: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """A model described from its options alone, on the meta device: no weight is loaded to make one.

    `layers` counts transformer blocks, or the stages of a convolutional network.
    `widths` and `grids` have one entry per layer: the width D_i and the (rows, columns) of the patch tokens.
    `image_size` is (height, width) in pixels. `flexible_size` says whether other sizes work without rebuilding.
    `head_modules` names the sub-modules of `network` that depend on the number of classes.
    `class_names` is None where the names are not known. `silent` says why a signal that one might expect is not
    revealed, as the end of a sentence: "its attention is windowed".
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
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop: float = 0.875
    head_modules: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    parameters: int = 0
    licence: str | None = None
    silent: Mapping[Signal, str] = field(default_factory=dict, hash=False)

    @property
    def width(self) -> int:
        """The width D of the last layer."""
        return self.widths[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """The grid of the last layer, rows by columns."""
        return self.grids[-1]


@dataclass(frozen=True)
class ModelRequest:
    """What a recipe asks of a model plugin.

    `name` is as typed, `argument` what follows its colon. `options` is an instance of the factory's `Options`.
    `weights` is a file, "pretrained", "none", or None for the plugin's own default.
    `classes` is the number of classes a student must have; None lets the model keep its own, and 0 leaves out the class
    head: nothing that teaches speaks of classes, and the network's own forward then returns the embedding.
    `class_names` are the names of these classes, where known: a student's weights may be of others.
    """

    name: str
    argument: str | None
    options: Any
    weights: str | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None


class Model(Protocol):
    """A built teacher or student: an nn.Module around `network`, which is what is saved and exported.

    `forward(images, wanted)` takes [B, C, H, W], normalised with `spec.mean` and `spec.std`, and returns exactly the
    wanted signals. It returns both heads whether the module trains or not.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def network(self) -> nn.Module: ...

    def __call__(self, images: Tensor, wanted: Wanted) -> Outputs: ...


class TeacherView(Protocol):
    """A teacher of a run: it takes the student's images and sees them as it did in training.

    Calling it with images [B, C, H, W], normalised for the student, returns the wanted signals; `spec` describes them.
    """

    @property
    def spec(self) -> ModelSpec: ...

    def see(self, images: Tensor) -> Tensor:
        """The pixels that the teacher gets: its normalisation, its size. Shapes: [B, C, H, W] to [B, C, H', W']."""

    def __call__(self, images: Tensor, wanted: Wanted) -> Outputs: ...


class ModelFactory(Protocol):
    """What `PluginSpec.factory` of a teacher or student names: a class with two class methods.

    `Options` is a frozen pydantic model; unknown keys are errors.
    """

    @property
    def Options(self) -> type[BaseModel]: ...  # noqa: N802 - how mypy is told of a class inside the class

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the model on the meta device. May read the header of a weight file, must not download."""

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the model on torch's default device: the CPU, or "meta" for a plan, then with shapes alone.

        A teacher comes with its weights, random ones where they are "none"; a student as initialised under torch's
        current seed, with `request.weights` loaded where given (`distillkit.models.start_from` does both cases).
        """
