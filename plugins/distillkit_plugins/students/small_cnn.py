"""`small-cnn`: a small CNN for tiny images, and an example of a model that is not from timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from distillkit import ModelRequest, ModelSpec, Outputs, Signal, Wanted
from distillkit.models import LoadReport, at_least_float32, sketching, start_from
from distillkit_plugins.students.options import SmallCnnOptions

STAGES = 3
FEATURES = frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS})


class ConvNet(nn.Module):
    """Three stages of two 3x3 convolutions with batch norm; each later stage halves the map and doubles the width.

    Shapes: images [B, 3, H, W], H and W at least 1 -> logits [B, K], or with K = 0 the pooled last stage [B, D].
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(STAGES)]
        inputs = [3, *widths]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *_convolution(inner, outer, stride=1 if inner == 3 else 2), *_convolution(outer, outer, stride=1)
            )
            for inner, outer in zip(inputs, widths, strict=False)
        )
        self.head = nn.Linear(widths[-1], classes) if classes else nn.Identity()

    def maps(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of every stage, after its last ReLU and before it: images [B, 3, H, W] -> [B, D_i, H_i, W_i] each."""
        maps, raw = [images], []
        for stage in cast("list[nn.Sequential]", self.stages):
            *layers, relu = stage
            raw.append(maps[-1])
            for layer in layers:
                raw[-1] = layer(raw[-1])
            maps.append(relu(raw[-1]))
        return maps[1:], raw

    def forward(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.maps(images)[0][-1].mean(dim=(2, 3))))  # [B, K]


class SmallCnn(nn.Module):
    """`small-cnn` as a student: learns digits (8 pixels) within seconds and suits CIFAR (32 pixels).

    Shapes: images [B, 3, H, W] -> logits [B, K]; per requested stage i, embedding [B, D_i] (the mean of its feature
        maps), patch tokens [B, N_i, D_i] and raw tokens, N_i = H_i * W_i.
    """

    load_report: LoadReport | None

    Options = SmallCnnOptions

    def __init__(self, network: ConvNet, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.load_report = None

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student."""
        options = cast("SmallCnnOptions", request.options)
        height, width = options.image_size
        classes = 1000 if request.classes is None else request.classes
        # A description must neither compute weights nor draw random numbers.
        with sketching():
            network = ConvNet(options.width, classes)
        return ModelSpec(
            name=request.name,
            architecture="small-cnn",
            kind="cnn",
            classes=classes,
            signals=FEATURES | ({Signal.LOGITS} if classes else set()),
            image_size=(height, width),
            layers=STAGES,
            widths=tuple(options.width * 2**stage for stage in range(STAGES)),
            # Rounded up: a 3x3 convolution with stride 2 and padding 1 maps 9 pixels to 5.
            grids=tuple((-(-height // 2**stage), -(-width // 2**stage)) for stage in range(STAGES)),
            flexible_size=True,
            head_modules=("head",) if classes else (),
            class_names=request.class_names,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        )

    @classmethod
    def build(cls, request: ModelRequest) -> SmallCnn:
        """Build the student under torch's current seed, and load its starting weights, if any.

        Raises: WeightsError, RunDirectoryError for weights that do not fit.
        """
        spec = cls.describe(request)
        model = cls(ConvNet(request.options.width, spec.classes), spec)
        model.load_report = start_from(model, request.weights)
        return model

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        maps, raw = ([at_least_float32(each) for each in stages] for stages in self.network.maps(images))
        pooled = maps[-1].mean(dim=(2, 3))  # [B, D]
        return Outputs(
            logits=at_least_float32(self.network.head(pooled)) if Signal.LOGITS in wanted else None,
            embedding=tuple(maps[layer].mean(dim=(2, 3)) for layer in wanted.get(Signal.EMBEDDING, ())),
            patch_tokens=tuple(_tokens(maps[layer]) for layer in wanted.get(Signal.PATCH_TOKENS, ())),
            raw_tokens=tuple(_tokens(raw[layer]) for layer in wanted.get(Signal.RAW_TOKENS, ())),
        )


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)  # [B, D_i, H_i, W_i] to [B, N_i, D_i]


def _convolution(inner: int, outer: int, *, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
    yield nn.BatchNorm2d(outer)
    yield nn.ReLU()
