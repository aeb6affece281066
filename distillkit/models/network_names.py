"""Names of a network's tensors in a checkpoint: prefixes, and the parts that only training needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor

PREFIXES = ("_orig_mod.", "module.")
"""Prefixes of all names after torch.compile and data parallelism."""
NETWORK_PREFIXES = ("model.", "network.", "backbone.", "encoder.", "net.", "teacher.", "student.")
"""Prefixes of the network's names in a checkpoint that holds more than the network, the likelier first."""

DECODER, MASK_TOKEN, RELATION_BLOCKS = "decoder_", "mask_token", "relation_blocks."
"""Parts that only training needs: MAE's decoder and mask token, and Mugs' blocks for its group losses."""


def unwrapped_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that torch.compile and data parallelism add to all names. Shapes: any shape.

    >>> list(unwrapped_names({"module.norm.bias": torch.ones(1), "module.head.bias": torch.ones(1)}))
    ['norm.bias', 'head.bias']
    """
    plain = dict(weights)
    # A loop, since a model may be compiled and then wrapped, or the other way round.
    while prefix := next((each for each in PREFIXES if plain and all(name.startswith(each) for name in plain)), None):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def network_prefix(weights: Mapping[str, Tensor], known: Collection[str]) -> tuple[str, list[str]]:
    """The prefix under which most of the `known` names are, and the other prefixes under which as many are.

    Of several, the likelier comes first: "", those in NETWORK_PREFIXES, those that are not an EMA's.
    Shapes: any shape.

    >>> network_prefix({"student.a.bias": torch.ones(1), "ema.a.bias": torch.ones(1)}, ["a.bias"])
    ('student.', ['ema.'])
    """
    wanted = set(known)
    found = Counter("" for name in weights if name in wanted)
    for name in weights.keys() - wanted:
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in range(1, len(parts)))
        found.update(name.removesuffix(end) for end in ends if end in wanted)
    order = {prefix: place for place, prefix in enumerate(("", *NETWORK_PREFIXES))}
    # Under an unknown prefix, a few equal names are those of another network.
    found = Counter({prefix: count for prefix, count in found.items() if prefix in order or 2 * count >= len(wanted)})
    best = [prefix for prefix, count in found.items() if count == max(found.values())]
    likelier = sorted(best, key=lambda prefix: (order.get(prefix, len(order)), "ema" in prefix.lower(), prefix))
    return (likelier[0], likelier[1:]) if likelier else ("", [])


def names_of_network(
    weights: Mapping[str, Tensor], known: Collection[str], prefix: str | None = None
) -> dict[str, Tensor]:
    """Extract the network with the `known` names from a checkpoint that holds more. Shapes: any shape.

    `prefix` is that of the network's names, by default the likeliest. Other parts of the checkpoint (projection heads,
    a predictor) are dropped, unless the network has their names.
    """
    prefix = network_prefix(weights, known)[0] if prefix is None else prefix
    if not prefix:
        return dict(weights)
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in weights.items() if name in known} | inside


def without_training_parts(
    weights: Mapping[str, Tensor], known: Collection[str], *, unneeded: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Drop the parts that only self-supervised training needs, and `unneeded` prefixes, except `known` names.

    Shapes: any shape.

    >>> list(without_training_parts({"norm.bias": torch.ones(1), "decoder_norm.bias": torch.ones(1)}, ["norm.bias"]))
    ['norm.bias']
    """
    # Without a decoder a mask token stays: timm recognises DINOv2's layout by it.
    has_decoder = any(name.startswith(DECODER) for name in weights)
    dropped = (*unneeded, RELATION_BLOCKS, *((DECODER, MASK_TOKEN) if has_decoder else ()))
    return {name: tensor for name, tensor in weights.items() if name in known or not name.startswith(dropped)}
