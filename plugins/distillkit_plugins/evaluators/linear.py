"""`linear`: accuracy of a linear classifier on the frozen model (linear probe)."""

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
"""From this width on (ViT-B), DINO probes the last layer and its patches instead of four layers."""

Count = Annotated[int, Field(gt=0)]


class LinearProbe:
    """Linear probe of the frozen model: `fast` on cached features, or `dino` on augmented images.

    Features of a ViT are the class tokens of the last 4 blocks after the final norm; from the width of ViT-B on, the
    class token of the last block and the mean of its patch tokens. Other models: the pooled feature. Both methods train
    with SGD, momentum 0.9 and a cosine learning rate for 100 epochs.
    `dino` augments every image in every epoch (random resized crop, flip), with one learning rate and batches of 1,024.
    `fast` standardises the features and trains one head for each of several learning rates, with batches of 256. The
    best head is selected on the validation images, unless these are the images to be evaluated.
    Source: DINO (Caron et al. 2021, arXiv:2104.14294), appendix F.2 and `eval_linear.py`; many learning
        rates in one pass are from iBOT (Zhou et al. 2022, arXiv:2111.07832) and DINOv2 (arXiv:2304.07193).
    """

    learns = True
    shares = True

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """Method and training settings of the probe."""

        method: Literal["fast", "dino"] = Field("fast", description="`fast`: cached features; `dino`: augmented images")
        epochs: Count = Field(100, description="epochs on the training images")
        batch_size: Count | None = Field(None, description="images per step; `dino`: 1024, `fast`: 256")
        lr: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
            None,
            strict=False,
            min_length=1,
            description="learning rates at batch 256, one head each; `dino`: 0.001, `fast`: seven from 0.001 to 1",
        )
        blocks: Count | None = Field(
            None, description="number of last layers whose embeddings are read; default 4 or 1, see docs/evaluation.md"
        )
        patch_mean: bool | None = Field(
            None, description="also read the mean of the last patch tokens; default: see docs/evaluation.md"
        )
        seed: int = Field(0, description="seed of the initial weights, the order and the augmentation")

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Raises: DataError for images that cannot be augmented or read."""
        options = self.options
        view = probe_view(subject.spec, options.blocks, patch_mean=options.patch_mean)
        trained = self._fast(subject, view) if options.method == "fast" else self._dino(subject, view)
        features = subject.features(subject.measured, view)
        measured = trained.accuracies(features, subject.device)
        # A single head leaves nothing to select.
        selection = subject.validation if len(measured) > 1 else None
        selected = trained.accuracies(subject.features(selection, view), subject.device) if selection else measured
        rates = trained.heads.rates
        best = max(range(len(rates)), key=lambda head: selected[head]["top1"])
        where = f"{len(selection):,} validation images" if selection else "the evaluated images themselves"
        return Measurement(
            title=self._title(),
            figures=measured[best] | {"images": float(len(features))},
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
        features.values.sub_(mean).div_(deviation)  # in place: gigabytes for ImageNet
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
        # DINO's protocol does not standardise the features.
        return _Trained(heads, torch.zeros(1), torch.ones(1), len(subject.training))


@dataclass(frozen=True)
class _Trained:
    """Trained heads, and the standardisation [D] of the features."""

    heads: LinearHeads
    mean: torch.Tensor
    deviation: torch.Tensor
    images: int

    def accuracies(self, features: Features, device: torch.device) -> tuple[dict[str, float], ...]:
        """Accuracy of every head, in percent."""
        standardised = Features((features.values - self.mean) / self.deviation, features.labels)
        return head_accuracy(self.heads, standardised, device)


def probe_view(spec: ModelSpec, blocks: int | None = None, *, patch_mean: bool | None = None) -> View:
    """Features that DINO's linear probe reads from a model of this kind and width, unless others are given.

    `blocks` is limited to the model's layers.
    """
    is_wide = spec.kind == "vit" and spec.width >= BASE_WIDTH
    default = 4 if spec.kind == "vit" and not is_wide else 1
    return View(min(blocks or default, spec.layers), is_wide if patch_mean is None else patch_mean)
