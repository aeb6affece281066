"""From 8-bit pixels to what a network sees: normalisation, random erasing and mixing, in this order.

A loader process does all of it, or hands over 8-bit pixels with what was drawn, and the training process finishes them
on its device (`data.finish`). Every value is the result of the same operations in float32, so that both give the same
bits on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from distillkit.contracts.model import ModelSpec
from distillkit.data.mixing import Mixed, mix


class Erased(NamedTuple):
    """A box of the image `entry` of a batch that random erasing replaced by `values` [3, h, w]."""

    entry: int
    top: int
    left: int
    values: Tensor


class PixelNormalisation:
    """Pixels 0..255 on a device, by default the CPU, to a network's range, with its mean and standard deviation.

    The operations of torchvision's ToTensor and Normalize, so the same bits, without their five copies.
    """

    def __init__(self, spec: ModelSpec, device: torch.device | None = None) -> None:
        # 255 as a tensor too: CUDA multiplies by the reciprocal of a number, which rounds differently.
        self._largest, self._mean, self._std = (
            torch.tensor(values, device=device).view(-1, 1, 1) for values in ((255.0,) * 3, spec.mean, spec.std)
        )  # [3, 1, 1]

    def __call__(self, pixels: Tensor, out: Tensor) -> Tensor:
        """Write `pixels` [..., H, W, 3] uint8 to `out` [..., 3, H, W] float32, both on the device, and return it."""
        return out.copy_(pixels.movedim(-1, -3)).div_(self._largest).sub_(self._mean).div_(self._std)


def finished(pixels: Tensor, normalise: PixelNormalisation, erased: Iterable[Erased], mixed: Iterable[Mixed]) -> Tensor:
    """The images [B, 3, H, W] float32 of `pixels` [B, H, W, 3] uint8, on their device."""
    count, height, width, channels = pixels.shape
    images = normalise(pixels, torch.empty(count, channels, height, width, device=pixels.device))
    for entry, top, left, values in erased:
        rows, columns = values.shape[1:]
        images[entry, :, top : top + rows, left : left + columns] = values.to(images.device, non_blocking=True)
    mix(images, mixed)
    return images
