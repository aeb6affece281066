# ruff: noqa: NPY002 -- timm draws the box from the global generator, so the strength may come from there too
"""Mixup and cutmix, with strength and box from the names of those that are mixed; and the labels that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from distillkit.data.randomness import isolated, reseed
from distillkit.recipe.schema import Mixing

Box = tuple[int, int, int, int]


def label_rows(labels: Sequence[int | None], classes: int, smoothing: float) -> Tensor:
    """Labels as distributions, [B, classes]; a row of zeros where there is none.

    The label has 1 - smoothing + smoothing / classes, every other class smoothing / classes, as in timm.
    """
    rows = torch.zeros(len(labels), classes)
    for row, label in zip(rows, labels, strict=True):
        if label is not None:
            row.fill_(smoothing / classes)
            row[label] += 1 - smoothing
    return rows


@dataclass(frozen=True)
class Mixer:
    """Mix the images of a batch, in place, and their labels alike.

    mode "pair": entries 2k and 2k + 1 are mixed with each other, with a strength and a box of their own. A labelled
        image is never mixed with an unlabelled one; such a pair, and a last one alone, stay as they are.
    mode "batch": one strength and box for all, entry i with entry B - 1 - i. What an image becomes depends on who else
        is in the batch, so it is repeatable for one number of processes and one micro-batch size only.
    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899; timm's `Mixup`, of which "batch" is
        the mode that DeiT uses.
    Differs: in "pair" timm pairs i with B - 1 - i; here neighbours, so that a batch can be split between pairs.
    """

    mixing: Mixing
    seed: int

    @property
    def is_on(self) -> bool:
        return (self.mixing.mixup > 0 or self.mixing.cutmix > 0) and self.mixing.probability > 0

    def __call__(self, images: Tensor, labels: Tensor | None, label_mass: Tensor, names: Sequence[str]) -> None:
        """Mix `images` [B, C, H, W] and `labels` [B, K] in place.

        `label_mass` [B] is 1 for a labelled image and 0 for an unlabelled one. `names` identify the images, their
        repeats and the view.
        """
        if not self.is_on:
            return
        with isolated():
            for group in self._groups(label_mass.tolist()):
                reseed(self.seed, "mixing", *names[group])
                strength, box = self._draw(images.shape)
                if box is None:
                    _blend(images[group], strength)
                else:
                    top, bottom, left, right = box
                    _blend(images[group, :, top:bottom, left:right], 0.0)
                if labels is not None:
                    _blend(labels[group], strength)

    def _groups(self, label_mass: list[float]) -> list[slice]:
        """Those that share a draw: neighbours of the same kind, or the whole batch."""
        if self.mixing.mode == "batch":
            return [slice(None)]
        starts = range(0, len(label_mass) - 1, 2)
        return [slice(start, start + 2) for start in starts if label_mass[start] == label_mass[start + 1]]

    def _draw(self, shape: Sequence[int]) -> tuple[float, Box | None]:
        """How much of an image stays its own, from 0 to 1, and for cutmix the box that does not."""
        mixing = self.mixing
        if np.random.rand() >= mixing.probability:
            return 1.0, None
        is_cutmix = mixing.cutmix > 0 and (mixing.mixup == 0 or np.random.rand() < mixing.switch)
        alpha = mixing.cutmix if is_cutmix else mixing.mixup
        strength = np.random.beta(alpha, alpha)
        if not is_cutmix:
            return float(strength), None
        # The box is cut at the border; what is left over is its exact complement.
        box, left_over = cutmix_bbox_and_lam(shape, strength)  # type: ignore[no-untyped-call]
        return float(left_over), box


def _blend(members: Tensor, strength: float) -> None:
    """Let each keep `strength` of itself and take the rest from its partner; the first pairs with the last."""
    partners = members.flip(0)
    members.mul_(strength).add_(partners, alpha=1 - strength)
