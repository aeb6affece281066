"""`cifar-resnet20`, `cifar-resnet56`: the CIFAR ResNets as teachers, with a network of our own.

This module is the worked example of a teacher plugin (docs/plugins.md): a network, a description, an adapter, and
the line in `catalog.py` that registers it.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillkit import ModelRequest, ModelSpec, Outputs, Signal, Wanted, WeightsError
from distillkit.models import at_least_float32, load_weights, read_weights, weight_option
from distillkit_plugins.teachers.options import CifarResNetOptions

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BLOCKS = {"cifar-resnet20": 3, "cifar-resnet56": 9}
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Residual block: two 3x3 convolutions and a shortcut without parameters.

    Shapes: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride].
    Source: He et al. 2016, arXiv:1512.03385, section 4.2, option A: where the shape changes, every second pixel is
        kept and the new channels are zeros.
    Differs: half of the new channels come before the existing ones and half after, as the published weights need it.
    """

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.stride = stride
        self.padding = (outer - inner) // 2

    def before_relu(self, maps: Tensor) -> Tensor:
        """The output of the block before its last ReLU; shapes as of the block."""
        inner = functional.relu(self.bn1(self.conv1(maps)))
        shortcut = maps[:, :, :: self.stride, :: self.stride]  # [B, C_in, H / stride, W / stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))  # [B, C_out, ...]
        return cast("Tensor", self.bn2(self.conv2(inner)) + shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.before_relu(maps))


class CifarResNet(nn.Module):
    """CIFAR ResNet with 6n + 2 layers, for 32-pixel images.

    Shapes: images [B, 3, H, W] -> logits [B, K]; three stages of 16, 32 and 64 channels.
    Source: He et al. 2016, arXiv:1512.03385, section 4.2.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        # The attribute names are those of the published weights.
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = self._stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = self._stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = self._stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        self.linear = nn.Linear(WIDTHS[2], classes)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps of each stage before its last ReLU: images [B, 3, H, W] -> [B, C_i, H_i, W_i]."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3):
            *blocks, last = cast("list[Block]", stage)
            for block in blocks:
                maps = block(maps)
            outputs.append(last.before_relu(maps))
            maps = functional.relu(outputs[-1])
        return outputs

    @staticmethod
    def _stage(inner: int, outer: int, blocks: int, *, stride: int) -> nn.Sequential:
        rest = [Block(outer, outer, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Block(inner, outer, stride), *rest)


class CifarResNetTeacher(nn.Module):
    """Adapter of the network to the contract of a teacher. Its weights come from a file (`--teacher-weights`).

    Shapes: images [B, 3, H, W] -> logits [B, K], K = 10 unless the file's head has another; per requested stage i,
        embedding [B, C_i] (the mean of its feature maps), patch tokens and raw tokens [B, N_i, C_i], N_i = H_i * W_i.
    Source of published weights: akamaster/pytorch_resnet_cifar10 (BSD-2-Clause), keys `module.*` under `state_dict`.
    Raises: WeightsError without a file.
    """

    Options = CifarResNetOptions

    def __init__(self, network: CifarResNet, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        if request.weights in (None, "pretrained"):
            raise WeightsError(
                f"teacher '{request.name}' has no published weights to download; give {weight_option()} FILE"
            )
        shapes = None if request.weights == "none" else read_weights(Path(request.weights), shapes_only=True)
        head = None if shapes is None else shapes.get("linear.weight")
        # The head in the file sets the number of classes; CIFAR-100's has 100.
        classes = len(CLASS_NAMES) if head is None or head.dim() != 2 else head.shape[0]
        with torch.device("meta"):
            network = CifarResNet(BLOCKS[request.name], classes)
        spec = ModelSpec(
            name=request.name,
            architecture=request.name,
            kind="cnn",
            classes=classes,
            signals=frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS}),
            image_size=(32, 32),
            layers=len(WIDTHS),
            widths=WIDTHS,
            grids=((32, 32), (16, 16), (8, 8)),
            flexible_size=True,
            crop=1.0,
            head_modules=("linear",),
            class_names=CLASS_NAMES if classes == len(CLASS_NAMES) else None,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        )
        if shapes is not None:  # so that `plan` refuses a file that does not fit
            load_weights(cls(network, spec), shapes, source=str(request.weights), fit="nothing")
        return spec

    @classmethod
    def build(cls, request: ModelRequest) -> CifarResNetTeacher:
        spec = cls.describe(request)
        model = cls(CifarResNet(BLOCKS[request.name], spec.classes), spec)
        weights = request.weights
        if weights is not None and weights != "none":
            load_weights(model, read_weights(Path(weights)), source=weights, fit="nothing")
        return model

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        raw = [at_least_float32(stage) for stage in self.network.stages(images)]
        maps = [functional.relu(stage) for stage in raw]
        pooled = [stage.mean(dim=(2, 3)) for stage in maps]  # [B, C_i]
        to_head = pooled[-1].to(self.network.linear.weight.dtype)  # with half weights there is no autocast
        tokens, raw_tokens = ([stage.flatten(2).transpose(1, 2) for stage in each] for each in (maps, raw))
        return Outputs(
            logits=at_least_float32(self.network.linear(to_head)) if Signal.LOGITS in wanted else None,
            embedding=tuple(pooled[layer] for layer in wanted.get(Signal.EMBEDDING, ())),
            patch_tokens=tuple(tokens[layer] for layer in wanted.get(Signal.PATCH_TOKENS, ())),
            raw_tokens=tuple(raw_tokens[layer] for layer in wanted.get(Signal.RAW_TOKENS, ())),
        )
