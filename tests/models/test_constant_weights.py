"""Compiled networks whose weights are constants: none gets the weights of another, or its own before a change."""

import pytest
import torch
from torch import nn

from distillkit.models.constant_weights import compile_with_constants


def network_of(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


@pytest.mark.slow
@torch.no_grad()
def test_each_compiled_network_has_the_weights_of_its_first_call():
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    first, second = network_of(0), network_of(1)
    compiled = {network: compile_with_constants(network) for network in (first, second)}
    before = {network: run(images) for network, run in compiled.items()}
    for network, maps in before.items():
        torch.testing.assert_close(maps, network(images))
    assert not torch.allclose(before[first], before[second])

    first[0].weight.mul_(2)
    assert torch.equal(compiled[first](images), before[first])
    again = compile_with_constants(first)(images)
    torch.testing.assert_close(again, first(images))
    assert not torch.allclose(again, before[first])
