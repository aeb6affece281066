import pytest
import torch

from distillkit.models import TimmModel

SMALL = {"image_size": (32, 32), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
"""A geometry that takes milliseconds."""


def stir(model, seed=1):
    """Weights that tell heads, tokens and blocks apart: as initialised, many are almost zero or equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture
def small():
    """The arguments of a small ViT."""
    return dict(SMALL)


@pytest.fixture
def distilled():
    return stir(TimmModel.create("deit_tiny_distilled_patch16_224", name="deit", classes=7, **SMALL))


@pytest.fixture
def plain():
    return stir(TimmModel.create("deit_tiny_patch16_224", name="vit", classes=7, **SMALL))


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
