"""A ViT on some of its patches, against the complete sequence with an attention mask; the choice against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distillkit.models.kept_patches import KeptPatches, PatchChoice, why_not_droppable

SMALL = {"embed_dim": 24, "num_heads": 2, "depth": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "reg_tokens": 2, "no_embed_class": True},
    "deit_tiny_distilled_patch16_224": {"img_size": 64},
    "eva02_tiny_patch14_224": {"img_size": 56},
    "vit_small_patch16_dinov3": {"img_size": 64},
    "vit_small_patch16_rope_mixed_224": {"img_size": 64},
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    """A small network of each kind with 16 patches, in float64."""
    torch.manual_seed(0)
    made: Any = timm.create_model(request.param, num_classes=5, **SMALL, **NETWORKS[request.param])
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.double().eval()


@torch.no_grad()
def test_kept_patches_are_those_of_a_network_in_which_the_others_are_no_keys(network: Any) -> None:
    """The reference: all patches, and minus infinity for the dropped keys in every block, rotary positions included."""
    size, prefix = network.patch_embed.img_size[0], network.num_prefix_tokens
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    indices = torch.tensor([[0, 3, 4, 9, 15], [1, 2, 3, 4, 5], [0, 7, 8, 13, 14]])  # [B, n]
    mask = torch.full((3, 1, 1, prefix + 16), -torch.inf, dtype=torch.float64)
    mask[..., :prefix] = 0
    mask.scatter_(3, (indices + prefix)[:, None, None], 0.0)
    complete = network.forward_features(images)
    masked = network.forward_features(images, attn_mask=mask)
    places = torch.cat((torch.arange(prefix).expand(3, -1), indices + prefix), dim=1)  # [B, P + n]
    expected = masked.gather(1, places.unsqueeze(-1).expand(-1, -1, 24))
    patches = KeptPatches(network)
    names = list(network.state_dict())
    with patches.keeping(indices):
        torch.testing.assert_close(network.forward_features(images), expected, rtol=0, atol=1e-13)
        _, layers = network.forward_intermediates(
            images, indices=[1], return_prefix_tokens=True, norm=True, output_fmt="NLC"
        )
    assert layers[0][0].shape == (3, 5, 24)
    assert torch.equal(network.forward_features(images), complete)
    assert list(network.state_dict()) == names


@torch.no_grad()
def test_dropping_is_traced_without_a_graph_break(network: Any) -> None:
    patches = KeptPatches(network)
    images = torch.randn(2, 3, *network.patch_embed.img_size, dtype=torch.float64)
    compiled: Any = torch.compile(network, backend="eager", fullgraph=True)
    for indices in (torch.tensor([[0, 3], [4, 9]]), torch.tensor([[1, 2], [0, 15]])):
        with patches.keeping(indices):
            torch.testing.assert_close(compiled(images), network(images), rtol=0, atol=1e-13)


def reference(rows: np.ndarray[Any, Any], choice: PatchChoice) -> list[list[int]]:
    """The kept patches of rows [B, A, 1 + N]: mean over heads, mean over the covered area, a stable sort."""
    kept = []
    for row in rows.mean(axis=1)[:, 1:]:
        grid = row.reshape(choice.student_grid)
        values = []
        for top in range(choice.teacher_grid[0]):
            for left in range(choice.teacher_grid[1]):
                spans = [
                    slice(place * own // theirs, -(-(place + 1) * own // theirs))
                    for place, own, theirs in zip((top, left), choice.student_grid, choice.teacher_grid, strict=True)
                ]
                values.append(grid[spans[0], spans[1]].mean())
        order = sorted(range(len(values)), key=lambda place: (-values[place], place))
        kept.append(sorted(order[: choice.kept]))
    return kept


@given(
    seed=st.integers(0, 2**16),
    student=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    teacher=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    masked=st.sampled_from([0.1, 0.29, 0.5, 0.75, 0.99]),
)
def test_the_patches_with_most_attention_are_kept(
    seed: int, student: tuple[int, int], teacher: tuple[int, int], masked: float
) -> None:
    choice = PatchChoice(masked, student, teacher)
    # Multiples of 1/4, so that sums are exact and values are often equal.
    rows = np.random.default_rng(seed).integers(0, 5, (2, 2, 1 + student[0] * student[1])) / 4
    if all(own % theirs == 0 or theirs % own == 0 for own, theirs in zip(student, teacher, strict=True)):
        powers = {own // theirs for own, theirs in zip(student, teacher, strict=True)} <= {0, 1, 2, 4}
        if powers:  # means over a number of patches that is no power of two are rounded
            assert choice(torch.from_numpy(rows)).tolist() == reference(rows, choice)
    found = choice(torch.from_numpy(rows))
    assert found.shape == (2, choice.kept)
    assert (found.diff(dim=1) > 0).all()


@pytest.mark.parametrize(("masked", "patches", "kept"), [(0.5, 196, 98), (0.29, 100, 71), (0.9, 4, 1), (0.99, 4, 1)])
def test_the_number_of_kept_patches_is_rounded_up(masked: float, patches: int, kept: int) -> None:
    assert PatchChoice(masked, (1, patches), (1, patches)).kept == kept


def test_only_plain_networks_of_timm_are_droppable() -> None:
    with torch.device("meta"):
        reasons = [
            why_not_droppable(timm.create_model(name, **arguments))
            for name, arguments in (
                ("vit_tiny_patch16_224", {}),
                ("vit_tiny_patch16_224", {"patch_drop_rate": 0.25}),
                ("swin_tiny_patch4_window7_224", {}),
            )
        ]
    assert reasons == [
        None,
        "it drops patches itself",
        "it is not one of timm's plain ViTs, whose sequence may have any length",
    ]
