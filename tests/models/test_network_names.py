"""Names of a network in a checkpoint that holds more."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillkit.models.network_names import names_of_network, unwrapped_names, without_training_parts

WEIGHTS = {"norm.bias": torch.arange(3.0), "head.weight": torch.arange(6.0).reshape(2, 3)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_prefix_is_removed_only_if_every_name_has_it():
    weights = {"module.norm.bias": torch.zeros(1), "head.bias": torch.zeros(1)}
    assert unwrapped_names(weights).keys() == weights.keys()
    assert unwrapped_names({}) == {}


@pytest.mark.parametrize("prefix", ["model.", "network.", "backbone.", "encoder.", "net.", "student.", "a.b.c."])
def test_network_inside_a_checkpoint_that_holds_more(prefix):
    weights = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    weights["projection.mlp.weight"] = torch.zeros(1)
    assert same(names_of_network(weights, WEIGHTS.keys()), WEIGHTS)


def test_head_next_to_a_backbone_is_kept():
    weights = {"backbone.norm.bias": WEIGHTS["norm.bias"], "head.weight": WEIGHTS["head.weight"]}
    weights |= {"backbone.a": torch.zeros(1), "backbone.b": torch.zeros(1)}
    network = names_of_network(weights, [*WEIGHTS, "a", "b"])
    assert network.keys() == {"norm.bias", "head.weight", "a", "b"}


def test_parts_that_only_training_needs_are_dropped_unless_the_network_has_them():
    parts = ["decoder_embed.weight", "decoder_blocks.0.norm1.bias", "mask_token", "relation_blocks.0.norm1.bias"]
    weights = {**WEIGHTS, **dict.fromkeys(parts, torch.zeros(1))}
    assert without_training_parts(weights, WEIGHTS.keys()).keys() == WEIGHTS.keys()
    assert without_training_parts(weights, {"norm.bias"}, unneeded=("head.",)).keys() == {"norm.bias"}
    assert without_training_parts(weights, weights.keys()).keys() == weights.keys()


def test_a_mask_token_without_decoder_is_kept():
    weights = {**WEIGHTS, "mask_token": torch.zeros(1), "blocks.0.relation_blocks.bias": torch.zeros(1)}
    assert without_training_parts(weights, WEIGHTS.keys()).keys() == weights.keys()


names = st.sets(st.text("abc.", min_size=1, max_size=6), min_size=1, max_size=6)


@given(names, st.sampled_from(["", "encoder.", "backbone."]))
def test_names_of_the_network_are_not_changed(own, prefix):
    known = {prefix + name for name in own}
    weights = dict.fromkeys(known, torch.zeros(1))
    assert names_of_network(weights, known) == weights
