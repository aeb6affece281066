import torch
from torch import nn

from distillkit.models import sketching


def test_initialisation_is_skipped_and_no_random_number_drawn():
    state = torch.get_rng_state()
    with sketching():
        layer = nn.Linear(100_000, 100_000)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    assert layer.weight.is_meta
    assert tuple(layer.weight.shape) == (100_000, 100_000)
    assert torch.equal(torch.get_rng_state(), state)


def test_tensors_with_memory_are_filled_as_usual():
    values = torch.zeros(3)
    with sketching():
        values.add_(1).mul_(2)
        values.fill_(values[0].item() + 3)
    assert values.tolist() == [5.0, 5.0, 5.0]


def test_ends_with_the_with_block():
    with sketching():
        pass
    layer = nn.Linear(2, 2)
    assert not layer.weight.is_meta
    assert layer(torch.ones(1, 2)).requires_grad
