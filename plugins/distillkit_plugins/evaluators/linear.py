"""`linear`: how well a linear classifier on top of the frozen model tells the classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field

from distillkit import ModelSpec
from distillkit.evaluation import Features, Measurement, Subject, View
from distillkit_plugins.evaluators.augmented_probe import train_on_augmented
from distillkit_plugins.evaluators.linear_heads import LinearHeads, head_accuracy, train_on_cached

DINO_BATCH, FAST_BATCH = 1024, 256
FAST_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DINO_RATES = (0.001,)
BASE_WIDTH = 768
"""From the width of ViT-B on, DINO looks at the last layer and its patches instead of at four layers."""

Count = Annotated[int, Field(gt=0)]


class LinearProbe:
    """A linear classifier on frozen features: `fast` on vectors that are made once, or `dino` on augmented images.

    Both see of a ViT the class tokens of the last 4 blocks behind the final norm, from the width of ViT-B on that of
    the last block and the mean of its patch tokens; of other models the pooled feature. Both train with SGD, momentum
    0.9, and rates that fall along a cosine, for 100 epochs.
    `dino` augments every image anew (random resized crop, flip), at one learning rate, in batches of 1,024.
    `fast` standardises the vectors, and trains a head at each of several rates at once, in batches of 256; the best is
    chosen on validation images where those are not what is measured.
    Source: DINO (Caron et al. 2021, arXiv:2104.14294), appendix F.2 and `eval_linear.py`; heads at many rates on one
        pass are those of iBOT (Zhou et al. 2022, arXiv:2111.07832) and DINOv2 (arXiv:2304.07193).
    """

    learns = True
    shares = True

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """Which probe, and how it learns."""

        method: Literal["fast", "dino"] = Field("fast", description="cached vectors, or DINO's augmented images")
        epochs: Count = Field(100, description="times through the training images")
        batch_size: Count | None = Field(None, description="images of one step; `dino`: 1024, `fast`: 256")
        lr: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
            None,
            strict=False,
            min_length=1,
            description="rates for a batch of 256, a head each; `dino`: 0.001, `fast`: seven from 0.001 to 1",
        )
        blocks: Count | None = Field(None, description="layers whose embeddings are read; 4 or 1, see above")
        patch_mean: bool | None = Field(None, description="read the mean of the last patch tokens too; see above")
        seed: int = Field(0, description="of the first weights, the order and the augmentation")

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Raises: DataError for images that cannot be augmented or read."""
        options = self.options
        view = probe_view(subject.spec, options.blocks, patch_mean=options.patch_mean)
        trained = self._fast(subject, view) if options.method == "fast" else self._dino(subject, view)
        looked_at = subject.features(subject.measured, view)
        measured = trained.accuracies(looked_at, subject.device)
        choosing = subject.validation if len(measured) > 1 else None
        seen = trained.accuracies(subject.features(choosing, view), subject.device) if choosing else measured
        rates = trained.heads.rates
        best = max(range(len(rates)), key=lambda head: seen[head]["top1"])
        where = f"{len(choosing):,} validation images" if choosing else "the measured images themselves"
        return Measurement(
            title=self._title(),
            figures=measured[best] | {"images": float(len(looked_at))},
            rows=tuple({"lr": rate, **each} for rate, each in zip(rates, measured, strict=True)),
            settings=options.model_dump()
            | {"lr": rates, "blocks": view.blocks, "patch_mean": view.patch_mean, "read": str(view)}
            | {"chosen_lr": rates[best], "training_images": trained.images},
            notes=(f"lr {rates[best]:g} of {len(rates)} was chosen on {where}",) if len(rates) > 1 else (),
        )

    def _title(self) -> str:
        if self.options.method == "dino":
            return f"linear probe on augmented images (dino: DINO's protocol, {self.options.epochs} epochs)"
        return f"linear probe on cached features (fast: no augmentation, {self.options.epochs} epochs)"

    def _fast(self, subject: Subject, view: View) -> _Trained:
        options = self.options
        features = subject.features(subject.training, view)
        mean, deviation = features.values.mean(dim=0), features.values.std(dim=0, correction=0).clamp_min(1e-6)
        features.values.sub_(mean).div_(deviation)  # in place: of ImageNet this is gigabytes
        heads = train_on_cached(
            features,
            subject.classes,
            options.lr or FAST_RATES,
            epochs=options.epochs,
            batch_size=options.batch_size or FAST_BATCH,
            seed=options.seed,
            device=subject.device,
        )
        return _Trained(heads, mean, deviation, len(features))

    def _dino(self, subject: Subject, view: View) -> _Trained:
        options = self.options
        heads = train_on_augmented(
            subject,
            view,
            options.lr or DINO_RATES,
            epochs=options.epochs,
            batch_size=options.batch_size or DINO_BATCH,
            seed=options.seed,
        )
        return _Trained(heads, torch.zeros(1), torch.ones(1), len(subject.training))


@dataclass(frozen=True)
class _Trained:
    """Heads, and what is done to a vector before they see it."""

    heads: LinearHeads
    mean: torch.Tensor
    deviation: torch.Tensor
    images: int

    def accuracies(self, features: Features, device: torch.device) -> tuple[dict[str, float], ...]:
        """The accuracy of every head, in percent."""
        seen = Features((features.values - self.mean) / self.deviation, features.labels)
        return head_accuracy(self.heads, seen, device)


def probe_view(spec: ModelSpec, blocks: int | None = None, *, patch_mean: bool | None = None) -> View:
    """What DINO's linear probe reads of a model of this kind and width, or what is asked for.

    Layers that the model does not have are not read.
    """
    is_wide = spec.kind == "vit" and spec.width >= BASE_WIDTH
    usual = 4 if spec.kind == "vit" and not is_wide else 1
    return View(min(blocks or usual, spec.layers), is_wide if patch_mean is None else patch_mean)
