"""Feature extraction: one float32 vector per image, in order, whatever else the model reveals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distillkit.contracts.model import ModelSpec, Outputs, Signal, Wanted
from distillkit.evaluation import View, extract
from distillkit.models import TimmModel

SPEC = ModelSpec("m", "m", "vit", 2, frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS}), (1, 1), layers=5)


class Numbered(nn.Module):
    """Layer l of an image with pixel x has the embedding (10 l + x, 0) and the patch tokens (x, l) and (3 x, l)."""

    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        x = images[:, 0, 0, 0].double()

        def pair(first: Tensor, second: float) -> Tensor:
            return torch.stack([first, torch.full_like(first, second)], dim=1)

        return Outputs(
            embedding=tuple(pair(10 * layer + x, 0.0) for layer in wanted[Signal.EMBEDDING]),
            patch_tokens=tuple(
                torch.stack([pair(x, layer), pair(3 * x, layer)], dim=1)
                for layer in wanted.get(Signal.PATCH_TOKENS, ())
            ),
        )


def batches() -> list[tuple[Tensor, Tensor]]:
    pixels = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    labels = torch.tensor([1, 0, 1])
    return [(pixels[:2], labels[:2]), (pixels[2:], labels[2:])]


@pytest.mark.parametrize(
    ("view", "last_features"),
    [
        (View(), [43.0, 0.0]),
        (View(blocks=2), [33.0, 0.0, 43.0, 0.0]),
        (View(patch_mean=True), [43.0, 0.0, 6.0, 4.0]),
    ],
)
def test_layers_are_concatenated_and_followed_by_the_mean_of_the_patches(
    view: View, last_features: list[float]
) -> None:
    model = Numbered().train()
    features = extract(model, SPEC, batches(), images=3, view=view)
    assert features.values[2].tolist() == last_features
    assert features.labels.tolist() == [1, 0, 1]
    assert features.values.dtype == torch.float32
    assert model.training
    assert not features.values.requires_grad


def test_a_source_with_fewer_images_than_its_length() -> None:
    assert len(extract(Numbered(), SPEC, batches(), images=7, view=View())) == 3


def test_features_of_a_vit_are_class_tokens_after_the_final_norm() -> None:
    torch.manual_seed(0)
    model = TimmModel.create("test_vit", name="test_vit").eval()
    images = torch.randn(2, 3, *model.spec.image_size)
    features = extract(model, model.spec, [(images, torch.zeros(2).long())], images=2, view=View(2, patch_mean=True))
    network = model.network
    with torch.no_grad():
        layers = network.get_intermediate_layers(images, n=2, norm=True, return_prefix_tokens=True)
    tokens = [prefix[:, 0] for _, prefix in layers] + [layers[-1][0].mean(dim=1)]
    torch.testing.assert_close(features.values, torch.cat(tokens, dim=1))


def test_text_of_a_view() -> None:
    assert str(View()) == "the embedding of the last layer"
    assert str(View(4, patch_mean=True)) == "the embedding of the last 4 layers and the mean of its patch tokens"
