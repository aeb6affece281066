"""`linear`: accuracy of a linear classifier on the frozen model (linear probe)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from distillkit import ModelSpec
from distillkit.evaluation import Features, Measurement, Subject, View
from distillkit_plugins.evaluators.augmented_probe import train_on_augmented
from distillkit_plugins.evaluators.knn import DINO_CROP
from distillkit_plugins.evaluators.linear_heads import LinearHeads, head_accuracy, train_on_cached
from distillkit_plugins.evaluators.options import LinearProbeOptions

DINO_BATCH, FAST_BATCH = 1024, 256
FAST_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DINO_RATES = (0.001,)
BASE_WIDTH = 768
"""From this width on (ViT-B), DINO probes the last layer and its patches instead of four layers."""

Accuracies: TypeAlias = tuple[dict[str, float], ...]
"""The accuracies of every head, in percent."""


class LinearProbe:
    """Linear probe of the frozen model: `fast` on cached features, or `dino` on augmented images.

    Features of a ViT are the class tokens of the last 4 blocks after the final norm; from the width of ViT-B on, the
    class token of the last block and the mean of its patch tokens. Other models: the pooled feature. Both methods train
    with SGD, momentum 0.9 and a cosine learning rate for 100 epochs.
    `dino` augments every image in every epoch (random resized crop, flip), with one learning rate and batches of 1,024.
    `fast` standardises the features and trains one head for each of several learning rates, with batches of 256. The
    best head is selected on the validation images, unless these are the images to be evaluated.
    `top1` is that of the last epoch. `best_epoch_top1` is the highest of any epoch, which DINO's code reports; it is
    chosen on the evaluated images.
    Source: DINO (Caron et al. 2021, arXiv:2104.14294), appendix F.2 and `eval_linear.py`; many learning
        rates in one pass are from iBOT (Zhou et al. 2022, arXiv:2111.07832) and DINOv2 (arXiv:2304.07193).
    """

    learns = True
    shares = True
    crop = DINO_CROP

    Options = LinearProbeOptions

    def __init__(self, options: LinearProbeOptions) -> None:
        self.options = options

    def measure(self, subject: Subject) -> Measurement:
        """Raises: DataError for images that cannot be augmented or read."""
        options = self.options
        view = probe_view(subject.spec, options.blocks, patch_mean=options.patch_mean)
        # Before the training, which measures the heads after every epoch.
        features = subject.features(subject.measured, view)
        trained = (
            self._fast(subject, view, features) if options.method == "fast" else self._dino(subject, view, features)
        )
        measured = trained.epochs[-1]
        # A single head leaves nothing to select.
        selection = subject.validation if len(measured) > 1 else None
        selected = trained.accuracies(subject.features(selection, view), subject.device) if selection else measured
        rates = trained.heads.rates
        chosen = max(range(len(rates)), key=lambda head: selected[head]["top1"])
        where = f"{len(selection):,} validation images" if selection else "the evaluated images themselves"
        best, best_top1 = trained.best_epoch(chosen)
        choice = (f"lr {rates[chosen]:g} of {len(rates)} was chosen on {where}",) if len(rates) > 1 else ()
        epochs = (
            f"last epoch, {len(trained.epochs)}: {measured[chosen]['top1']:.2f} %; best epoch, {best}: "
            f"{best_top1:.2f} %, chosen on the evaluated images as in DINO's code"
        )
        return Measurement(
            title=self._title(),
            figures=measured[chosen] | {"best_epoch_top1": best_top1, "images": float(len(features))},
            rows=tuple({"lr": rate, **each} for rate, each in zip(rates, measured, strict=True)),
            settings=options.model_dump()
            | {"lr": rates, "blocks": view.blocks, "patch_mean": view.patch_mean, "read": str(view)}
            | {"chosen_lr": rates[chosen], "best_epoch": best, "training_images": trained.images},
            notes=(*choice, epochs),
        )

    def _title(self) -> str:
        if self.options.method == "dino":
            return f"linear probe on augmented images (dino: DINO's protocol, {self.options.epochs} epochs)"
        return f"linear probe on cached features (fast: no augmentation, {self.options.epochs} epochs)"

    def _fast(self, subject: Subject, view: View, measured: Features) -> _Trained:
        options = self.options
        features = subject.features(subject.training, view)
        mean, deviation = features.values.mean(dim=0), features.values.std(dim=0, correction=0).clamp_min(1e-6)
        features.values.sub_(mean).div_(deviation)  # in place: gigabytes for ImageNet
        standardised = Features((measured.values - mean) / deviation, measured.labels)
        epochs: list[Accuracies] = []
        heads = train_on_cached(
            features,
            subject.classes,
            options.lr or FAST_RATES,
            epochs=options.epochs,
            batch_size=options.batch_size or FAST_BATCH,
            seed=options.seed,
            device=subject.device,
            after_epoch=lambda heads: epochs.append(head_accuracy(heads, standardised, subject.device)),
        )
        return _Trained(heads, mean, deviation, len(features), tuple(epochs))

    def _dino(self, subject: Subject, view: View, measured: Features) -> _Trained:
        options = self.options
        epochs: list[Accuracies] = []
        heads = train_on_augmented(
            subject,
            view,
            options.lr or DINO_RATES,
            epochs=options.epochs,
            batch_size=options.batch_size or DINO_BATCH,
            seed=options.seed,
            after_epoch=lambda heads: epochs.append(head_accuracy(heads, measured, subject.device)),
        )
        # DINO's protocol does not standardise the features.
        return _Trained(heads, torch.zeros(1), torch.ones(1), len(subject.training), tuple(epochs))


@dataclass(frozen=True)
class _Trained:
    """Trained heads, the standardisation [D] of the features, and the accuracies on the measured images by epoch."""

    heads: LinearHeads
    mean: torch.Tensor
    deviation: torch.Tensor
    images: int
    epochs: tuple[Accuracies, ...]

    def best_epoch(self, head: int) -> tuple[int, float]:
        """The first epoch with the highest `top1` of a head on the measured images, from 1, and that accuracy."""
        by_epoch = [epoch[head]["top1"] for epoch in self.epochs]
        return 1 + by_epoch.index(max(by_epoch)), max(by_epoch)

    def accuracies(self, features: Features, device: torch.device) -> Accuracies:
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
