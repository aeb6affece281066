# ruff: noqa: NPY002 -- timm draws the box from the global generator, so the ratio may come from there too
"""Mixup and CutMix of images and labels; ratio and box are drawn from the keys of the images that are mixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from distillkit.data.randomness import isolated, reseed, seed_of
from distillkit.recipe.image_tables import Mixing

Box = tuple[int, int, int, int]


def label_rows(labels: Sequence[int | None], classes: int, smoothing: float) -> Tensor:
    """Labels as smoothed distributions, [B, K]; a row of zeros for an unlabelled image.

    The label has 1 - smoothing + smoothing / classes, every other class smoothing / classes, as in timm.
    """
    rows = torch.zeros(len(labels), classes)
    for row, label in zip(rows, labels, strict=True):
        if label is not None:
            row.fill_(smoothing / classes)
            row[label] += 1 - smoothing
    return rows


class Mixed(NamedTuple):
    """What was drawn for a group of images: the share that each keeps of itself, and for CutMix the box replaced."""

    group: slice
    ratio: float
    box: Box | None


@dataclass(frozen=True)
class Mixer:
    """Draws Mixup and CutMix of a batch and its labels.

    mode "pair": entries 2k and 2k + 1 are mixed with each other, each pair with its own ratio and box. A labelled
        image is never mixed with an unlabelled one; that pair, and an odd last image, stay unchanged.
    mode "batch": one ratio and box for the batch, entry i is mixed with entry B - 1 - i. The result depends on the
        other images of the batch, so it is repeatable only for the same number of processes and micro-batch size.
    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899; timm's `Mixup`, of which "batch" is
        the mode that DeiT uses.
    Differs: in "pair" timm pairs i with B - 1 - i; here neighbours, so that a batch can be split between pairs.
    """

    mixing: Mixing
    seed: int

    def draw(self, shape: Sequence[int], label_mass: Tensor, names: Sequence[str]) -> tuple[Mixed, ...]:
        """How the images of a batch of `shape` [B, C, H, W] are mixed, for `mix` and `mix_labels`.

        `label_mass` [B] is 1 for a labelled image and 0 for an unlabelled one. `names` are the image keys with view
        and repeat.
        """
        if not self.mixing.is_on:
            return ()
        drawn = []
        with isolated():
            for group in self._groups(label_mass.tolist()):
                # From the names of the group: the draw does not depend on the rank or the micro-batch it is in.
                reseed(self.seed, "mixing", *names[group])
                drawn.append(Mixed(group, *self._draw(shape)))
        return tuple(drawn)

    def shown_as(self, label_mass: Tensor, names: Sequence[str]) -> list[int]:
        """A signed 64-bit hash for each image as it is shown: of its name, and of all names of its group if mixed.

        `label_mass` [B] and `names` as in `draw`. Images with the same hash have the same pixels, if
        augmentation, mixing and `data.seed` are the same.
        """
        shown = [seed_of("shown", name) for name in names]
        for group in self._groups(label_mass.tolist()) if self.mixing.is_on else ():
            members = seed_of("mixed", *names[group])
            # The place as well: both images of a pair keep `ratio` of themselves.
            shown[group] = [seed_of(place, members) for place in range(len(names[group]))]
        return [number % 2**64 - 2**63 for number in shown]

    def _groups(self, label_mass: list[float]) -> list[slice]:
        """The entries that share a draw: neighbours that are both labelled or both not, or the whole batch."""
        if self.mixing.mode == "batch":
            return [slice(None)]
        starts = range(0, len(label_mass) - 1, 2)
        return [slice(start, start + 2) for start in starts if label_mass[start] == label_mass[start + 1]]

    def _draw(self, shape: Sequence[int]) -> tuple[float, Box | None]:
        """The share of an image that is kept, from 0 to 1, and for CutMix the box that is replaced."""
        mixing = self.mixing
        if np.random.rand() >= mixing.probability:
            return 1.0, None
        is_cutmix = mixing.cutmix > 0 and (mixing.mixup == 0 or np.random.rand() < mixing.switch)
        alpha = mixing.cutmix if is_cutmix else mixing.mixup
        ratio = np.random.beta(alpha, alpha)
        if not is_cutmix:
            return float(ratio), None
        # The box is clipped at the border, so labels are weighted by the area that is really kept, not by the draw.
        box, kept = cutmix_bbox_and_lam(shape, ratio)  # type: ignore[no-untyped-call]
        return float(kept), box


def mix(images: Tensor, mixed: Iterable[Mixed]) -> None:
    """Mix `images` [B, C, H, W] in place."""
    for group, ratio, box in mixed:
        if box is None:
            _blend(images[group], ratio)
        else:
            top, bottom, left, right = box
            _blend(images[group, :, top:bottom, left:right], 0.0)  # 0: the box comes from the partner alone


def mix_labels(labels: Tensor, mixed: Iterable[Mixed]) -> None:
    """Mix `labels` [B, K] in place."""
    for group, ratio, _ in mixed:
        _blend(labels[group], ratio)


def _blend(members: Tensor, ratio: float) -> None:
    """Blend [B, ...] in place: each keeps `ratio` of itself, the rest is its partner; the first pairs with the last."""
    partners = members.flip(0)  # [B, ...]
    members.mul_(ratio).add_(partners, alpha=1 - ratio)
