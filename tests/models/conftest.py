import pytest
import torch

from distillkit.models import TimmModel

SMALL = {"image_size": (32, 32), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
"""Arguments of a ViT that runs in milliseconds."""


def randomise(model, seed=1):
    """Give heads, tokens and blocks distinct weights: as initialised, many are almost zero or equal."""
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
    return randomise(TimmModel.create("deit_tiny_distilled_patch16_224", name="deit", classes=7, **SMALL))


@pytest.fixture
def plain():
    return randomise(TimmModel.create("deit_tiny_patch16_224", name="vit", classes=7, **SMALL))


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
