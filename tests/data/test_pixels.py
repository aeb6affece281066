"""8-bit pixels that are finished on the device give the bits that loader processes give."""

import pytest
import torch
from torchvision.transforms import Normalize

from distillkit.contracts.model import ModelSpec
from distillkit.data.mixing import Mixed
from distillkit.data.pixels import Erased, PixelNormalisation, finished

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = ModelSpec("student", "student", "vit", 10, frozenset(), (2, 3), mean=MEAN, std=STD)


def test_normalisation_has_the_bits_of_torchvision():
    """Every value of a pixel."""
    pixels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).contiguous()
    found = PixelNormalisation(SPEC)(pixels, torch.empty(3, 16, 16))
    assert torch.equal(found, Normalize(MEAN, STD)(pixels.permute(2, 0, 1).float().div(255)))


def test_boxes_are_erased_before_images_are_mixed():
    pixels = torch.zeros(2, 2, 3, 3, dtype=torch.uint8)  # [B, H, W, 3]
    spec = ModelSpec("student", "student", "vit", 10, frozenset(), (2, 3), mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels[1] = 255
    erased = [Erased(0, 1, 1, torch.full((3, 1, 2), 8.0))]
    found = finished(pixels, PixelNormalisation(spec), erased, [Mixed(slice(0, 2), 0.75, None)])
    # 0.75 of itself and 0.25 of the partner: 0 and 1, in the box 8 and 1.
    first, second = torch.full((3, 2, 3), 0.25), torch.full((3, 2, 3), 0.75)
    first[:, 1, 1:], second[:, 1, 1:] = 0.75 * 8 + 0.25, 0.75 + 0.25 * 8
    assert torch.equal(found, torch.stack([first, second]))


@pytest.mark.gpu
def test_a_gpu_finishes_them_up_to_rounding():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 2, 3, 3), dtype=torch.uint8)
    erased = [Erased(2, 0, 1, torch.randn(3, 2, 1))]
    mixed = [Mixed(slice(0, 2), 0.3, None), Mixed(slice(2, 4), 0.5, (0, 1, 0, 2))]
    expected = finished(pixels, PixelNormalisation(SPEC), erased, mixed)
    found = finished(pixels.cuda(), PixelNormalisation(SPEC, torch.device("cuda")), erased, mixed)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)
