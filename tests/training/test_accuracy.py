"""Accuracy of every head and fusion, counted by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.contracts.model import ModelSpec, Outputs, Signal, Wanted
from distillkit.models.heads import Answer
from distillkit.training.accuracy import top1


class Fixed(nn.Module):
    """A model that returns a row of each of two tables per image; the pixel value is the row number."""

    def __init__(self, logits: Tensor, distill: Tensor | None) -> None:
        super().__init__()
        self.logits, self.distill = logits, distill

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        rows = images.flatten().long()
        return Outputs(self.logits[rows], None if self.distill is None else self.distill[rows])


def spec(*signals: Signal) -> ModelSpec:
    return ModelSpec("m", "m", "other", 3, frozenset(signals), (1, 1))


def test_every_head_and_fusion_is_counted_and_the_mode_is_kept() -> None:
    """Labels 0, 1, 2, 0. Class head right on images 0 and 3, distillation head on 0, 1 and 2."""
    logits = torch.tensor([[5.0, 0, 0], [5, 0, 0], [5, 0, 0], [5, 0, 0]])
    distill = torch.tensor([[1.0, 0, 0], [0, 9, 0], [0, 0, 4], [0, 9, 0]])
    model = Fixed(logits, distill).train()
    images = torch.arange(4.0).view(4, 1, 1, 1)
    labels = torch.tensor([0, 1, 2, 0])
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    figures = top1(model, spec(Signal.LOGITS, Signal.DISTILL_LOGITS), batches, Answer("distill"))
    # Mean of logits: image 1 -> class 1 (9 > 5), image 2 -> class 0 (5 > 4), image 3 -> class 1: right on 0 and 1.
    # Sum of softmaxes: image 2: class 0 has .987 + .018, class 2 has .007 + .965 -> class 0; image 3: 0 has .987 + 0,
    # class 1 has .007 + 1.0 -> class 1: right on 0 and 1.
    assert figures["class_top1"] == 50.0
    assert figures["distill_top1"] == 75.0
    assert figures["fused_logits_top1"] == 50.0
    assert figures["fused_softmax_top1"] == 50.0
    assert figures["top1"] == 75.0
    assert figures["images"] == 4.0
    assert "top5" not in figures
    expected = nn.functional.cross_entropy(distill, labels)
    assert abs(figures["loss"] - float(expected)) < 1e-6
    assert model.training


def test_a_model_with_one_head_has_no_fused_figures() -> None:
    model = Fixed(torch.eye(3), None)
    images = torch.arange(3.0).view(3, 1, 1, 1)
    figures = top1(model, spec(Signal.LOGITS), [(images, torch.tensor([0, 1, 1]))], Answer("fused", "softmax"))
    assert set(figures) == {"class_top1", "top1", "loss", "images"}
    assert abs(figures["top1"] - 200 / 3) < 1e-9


def test_without_images_there_is_no_accuracy() -> None:
    assert top1(Fixed(torch.eye(3), None), spec(Signal.LOGITS), [], Answer("class")) == {"images": 0.0}


def test_figures_of_an_idle_head_are_left_out() -> None:
    model = Fixed(torch.eye(3), torch.eye(3))
    images = torch.arange(3.0).view(3, 1, 1, 1)
    two_heads = spec(Signal.LOGITS, Signal.DISTILL_LOGITS)
    figures = top1(model, two_heads, [(images, torch.arange(3))], Answer("class", idle=("distill",)))
    assert set(figures) == {"class_top1", "top1", "loss", "images"}
