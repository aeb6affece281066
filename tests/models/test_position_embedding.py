import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from distillkit.errors import WeightsError
from distillkit.models.position_embedding import grid_of, resize_position_embedding

GRIDS = [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((14, 14), (4, 9)), ((5, 8), (8, 5)), ((2, 2), (2, 3))]


def embedding_of(grid, prefix, width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, prefix + grid[0] * grid[1], width, generator=generator, dtype=torch.float64).to(dtype)


def relative(one, other):
    return float((one - other).norm() / other.norm())


def authors_recipe(embedding, old_grid, new_grid, prefix):
    """Reimplementation of DeiT's main.py: split off prefix tokens, bicubic over the grid, put prefix tokens back."""
    kept = embedding[:, :prefix]
    grid = embedding[:, prefix:].reshape(-1, old_grid[0], old_grid[1], embedding.shape[-1]).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat((kept, grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def cubic_weights(old, new):
    """Matrix [new, old] of cubic convolution (Keys 1981, a = -0.75), with half-pixel centres and repeated borders."""
    a = -0.75
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        first = int(np.floor(centre))
        for tap in range(first - 1, first + 3):
            t = abs(centre - tap)
            near = (a + 2) * t**3 - (a + 3) * t**2 + 1
            far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            weights[row, min(max(tap, 0), old - 1)] += near if t <= 1 else far if t < 2 else 0.0
    return weights


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
def test_equals_the_authors_recipe(old_grid, new_grid, prefix):
    embedding = embedding_of(old_grid, prefix)
    resized = resize_position_embedding(embedding, old_grid=old_grid, new_grid=new_grid, prefix_tokens=prefix)
    expected = authors_recipe(embedding, old_grid, new_grid, prefix)
    assert resized.shape == expected.shape
    assert relative(resized, expected) < 1e-6


@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
def test_equals_bicubic_in_plain_numpy(old_grid, new_grid):
    embedding = embedding_of(old_grid, 2, dtype=torch.float32)
    resized = resize_position_embedding(embedding, old_grid=old_grid, new_grid=new_grid, prefix_tokens=2)
    grid = embedding[0, 2:].double().numpy().reshape(*old_grid, -1)
    rows, columns = cubic_weights(old_grid[0], new_grid[0]), cubic_weights(old_grid[1], new_grid[1])
    expected = np.einsum("rh,cw,hwd->rcd", rows, columns, grid).reshape(-1, grid.shape[-1])
    assert relative(resized[0, 2:].double(), torch.from_numpy(expected)) < 1e-6


def test_prefix_tokens_do_not_change():
    embedding = embedding_of((14, 14), 2)
    resized = resize_position_embedding(embedding, old_grid=(14, 14), new_grid=(24, 24), prefix_tokens=2)
    assert torch.equal(resized[:, :2], embedding[:, :2])


def test_same_grid_is_the_same_tensor():
    embedding = embedding_of((4, 4), 1)
    assert resize_position_embedding(embedding, old_grid=(4, 4), new_grid=(4, 4), prefix_tokens=1) is embedding


def test_half_precision_is_computed_in_float32_and_returned_in_half():
    embedding = embedding_of((14, 14), 1, dtype=torch.bfloat16)
    resized = resize_position_embedding(embedding, old_grid=(14, 14), new_grid=(24, 24), prefix_tokens=1)
    expected = authors_recipe(embedding.float(), (14, 14), (24, 24), 1).bfloat16()
    assert resized.dtype is torch.bfloat16
    assert torch.equal(resized, expected)


def test_timms_default_gives_another_result():
    embedding = embedding_of((14, 14), 1, dtype=torch.float32)
    own = resize_position_embedding(embedding, old_grid=(14, 14), new_grid=(24, 24), prefix_tokens=1)
    timms = resample_abs_pos_embed(embedding, [24, 24], [14, 14], num_prefix_tokens=1)
    assert relative(own, timms) > 0.01
    antialiased = resize_position_embedding(
        embedding, old_grid=(14, 14), new_grid=(24, 24), prefix_tokens=1, antialias=True
    )
    assert relative(antialiased, timms) < 1e-6


def test_grid_of_a_file():
    assert grid_of(196, (4, 4), "x.pth") == (14, 14)
    assert grid_of(40, (5, 8), "x.pth") == (5, 8)


@pytest.mark.parametrize("patches", [40, 0, -1])
def test_grid_that_is_not_square_is_refused(patches):
    with pytest.raises(WeightsError) as error:
        grid_of(patches, (4, 4), "x.pth")
    assert str(error.value) == (
        f"the position embedding in x.pth has {patches} patches, which is not a square number; "
        "only square grids can be resized to 4x4"
    )
