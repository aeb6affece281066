"""Incomplete weights: a head without one of its tensors, a distillation token that is missing or renamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from distillkit.contracts.model import ModelSpec
from distillkit.errors import WeightsError

TOKEN = "dist_token"  # noqa: S105 - the name of a tensor


def check_heads(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], modules: Sequence[str], source: str, *, may_be_random: bool
) -> None:
    """Refuse a head that has some of its tensors only, or a weight and a bias for different numbers of classes.

    `may_be_random` says that weights without any head are accepted.
    Shapes: weights [K, D], biases [K].
    Raises: WeightsError.
    """
    for module in modules:
        names = [name for name in own if name.startswith(f"{module}.") and not name.endswith("num_batches_tracked")]
        there = [name for name in names if name in given]
        missing = [name for name in names if name not in given]
        if there and missing:
            random = f", or remove {_listed(there)} from it to start with a random head" if may_be_random else ""
            raise WeightsError(
                f"{source} has {_listed(there)} but not {_listed(missing)}, so its head is incomplete; get the "
                f"complete file{random}"
            )
        if single := next((name for name in there if not given[name].dim()), None):
            raise WeightsError(f"{source} has a single number as {single}, so its head is damaged; get the file again")
        weight, bias = given.get(f"{module}.weight"), given.get(f"{module}.bias")
        if weight is not None and bias is not None and len(weight) != len(bias):
            raise WeightsError(
                f"{source} has {module}.weight for {len(weight):,} classes and {module}.bias for {len(bias):,}, so its "
                "head is inconsistent; get the file again"
            )


def check_distillation_token(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], spec: ModelSpec, source: str, *, may_add: bool
) -> None:
    """Refuse weights of a distilled network without its token, and, unless `may_add`, of one without any.

    Shapes: dist_token [1, 1, D], pos_embed [1, P + N, D] with P prefix tokens.
    Raises: WeightsError.
    """
    if TOKEN in own and TOKEN not in given:
        renamed = [name for name in given if name not in own and given[name].shape == own[TOKEN].shape]
        heads = [name for name in given if name.startswith("head_dist.")]
        if renamed:
            raise WeightsError(
                f"{source} has no {TOKEN}, the distillation token of '{spec.name}', but a tensor '{renamed[0]}' of its "
                f"shape; if that is the token, rename it to {TOKEN}"
            )
        if heads or _has_place_for_token(given, own):
            sign = f"it has {heads[0]}" if heads else "its pos_embed has a place for one"
            raise WeightsError(
                f"{source} has no {TOKEN}, the distillation token of '{spec.name}', although {sign}; get the complete "
                "file"
            )
        if not may_add and "cls_token" in given:
            raise WeightsError(
                f"{source} has no distillation token ({TOKEN}) and '{spec.name}' needs one; give the weights of a "
                "distilled network, or use the architecture without distillation"
            )
    if TOKEN in given and TOKEN not in own and "cls_token" in own and not may_add:
        raise WeightsError(
            f"{source} has a distillation token ({TOKEN}) and '{spec.name}' has none; use the distilled architecture"
        )


def _has_place_for_token(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether the positions [1, P + N, D] are those of the distilled network, for the same number of patches."""
    positions = given.get("pos_embed")
    return positions is not None and "pos_embed" in own and positions.shape == own["pos_embed"].shape


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
