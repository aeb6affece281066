"""`cifar-resnet20`, `cifar-resnet56`: the CIFAR ResNets as teachers, with a network of our own.

This module is the worked example of a teacher plugin (docs/plugins.md): a network, a description, an adapter, and
the line in `catalog.py` that registers it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from distillkit import ModelRequest, ModelSpec, Outputs, Signal, Wanted, WeightsError
from distillkit.models import at_least_float32, load_weights, read_weights

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

    def forward(self, maps: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(maps)))
        shortcut = maps[:, :, :: self.stride, :: self.stride]  # [B, C_in, H / stride, W / stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))  # [B, C_out, ...]
        return functional.relu(self.bn2(self.conv2(inner)) + shortcut)


class CifarResNet(nn.Module):
    """CIFAR ResNet with 6n + 2 layers, for 32-pixel images.

    Shapes: images [B, 3, H, W] -> logits [B, 10]; three stages of 16, 32 and 64 channels.
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
        """Feature maps of each stage: images [B, 3, H, W] -> [B, C_i, H_i, W_i]."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3):
            maps = stage(maps)
            outputs.append(maps)
        return outputs

    @staticmethod
    def _stage(inner: int, outer: int, blocks: int, *, stride: int) -> nn.Sequential:
        rest = [Block(outer, outer, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Block(inner, outer, stride), *rest)


class CifarResNetTeacher(nn.Module):
    """Adapter of the network to the contract of a teacher. Its weights come from a file (`--teacher-weights`).

    Shapes: images [B, 3, H, W] -> logits [B, 10]; per requested stage i, embedding [B, C_i] (the mean of its feature
        maps) and patch tokens [B, N_i, C_i], N_i = H_i * W_i.
    Source of published weights: akamaster/pytorch_resnet_cifar10 (BSD-2-Clause), keys `module.*` under `state_dict`.
    Raises: WeightsError without a file.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """No options."""

    def __init__(self, network: CifarResNet, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        if request.weights in (None, "pretrained"):
            raise WeightsError(
                f"teacher '{request.name}' has no published weights to download; give --teacher-weights FILE"
            )
        if request.weights != "none":
            read_weights(Path(request.weights), shapes_only=True)  # so that `plan` refuses an unreadable file
        with torch.device("meta"):
            network = CifarResNet(BLOCKS[request.name], len(CLASS_NAMES))
        return ModelSpec(
            name=request.name,
            architecture=request.name,
            kind="cnn",
            classes=len(CLASS_NAMES),
            signals=frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS}),
            image_size=(32, 32),
            layers=len(WIDTHS),
            widths=WIDTHS,
            grids=((32, 32), (16, 16), (8, 8)),
            flexible_size=True,
            crop=1.0,
            head_modules=("linear",),
            class_names=CLASS_NAMES,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            licence="that of the weight file",
        )

    @classmethod
    def build(cls, request: ModelRequest) -> CifarResNetTeacher:
        model = cls(CifarResNet(BLOCKS[request.name], len(CLASS_NAMES)), cls.describe(request))
        weights = request.weights
        if weights is not None and weights != "none":
            load_weights(model, read_weights(Path(weights)), source=weights, fit="nothing")
        return model

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        maps = [at_least_float32(stage) for stage in self.network.stages(images)]
        pooled = [stage.mean(dim=(2, 3)) for stage in maps]  # [B, C_i]
        tokens = [stage.flatten(2).transpose(1, 2) for stage in maps]  # [B, N_i, C_i]
        return Outputs(
            logits=at_least_float32(self.network.linear(pooled[-1])) if Signal.LOGITS in wanted else None,
            embedding=tuple(pooled[layer] for layer in wanted.get(Signal.EMBEDDING, ())),
            patch_tokens=tuple(tokens[layer] for layer in wanted.get(Signal.PATCH_TOKENS, ())),
        )
