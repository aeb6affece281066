import random

import numpy as np
import pytest
import torch

from distillkit.data.randomness import generator, isolated, reseed, seed_of


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_seed_is_a_pure_function_of_its_parts():
    # blake2b of b"0\0sample\x00cat/1.png" with 16 bytes, read as a little-endian number
    assert seed_of(0, "sample", "cat/1.png") == 0x3726426815D40904793607DA77278185
    assert seed_of(0, "a") != seed_of("0a")
    assert seed_of(1, "a") != seed_of(0, "a")


def test_file_names_that_are_not_valid_utf_8_have_a_seed():
    assert seed_of("caf\udce9.png") != seed_of("cafe.png")


def test_a_generator_restarts_each_time():
    assert (generator(3, "order").permutation(5) == generator(3, "order").permutation(5)).all()
    assert generator(3, "order").permutation(9).tolist() == [5, 4, 8, 1, 6, 0, 7, 3, 2]


def test_isolated_restores_the_global_generators():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = draws()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with isolated():
        reseed("anything")
        draws()
    assert draws() == expected


def test_isolated_restores_them_after_an_error():
    def fail():
        reseed("before the error")
        raise ValueError("the transform failed")

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="the transform failed"), isolated():
        fail()
    assert torch.equal(torch.rand(1), expected)


def test_reseeding_sets_all_three_generators():
    with isolated():
        reseed("a")
        first = draws()
        reseed("b")
        second = draws()
        reseed("a")
        assert draws() == first
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_numpy_and_torch_do_not_draw_the_same():
    with isolated():
        reseed("a")
        assert torch.rand(1, dtype=torch.float64).item() != np.random.rand()
        assert torch.initial_seed() != np.random.get_state()[1][0]
