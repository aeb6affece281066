"""Match what losses read with what models reveal, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from distillkit.contracts.model import LAYERED, ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

SPOKEN = {
    Signal.LOGITS: "logits",
    Signal.DISTILL_LOGITS: "distillation logits",
    Signal.EMBEDDING: "embedding",
    Signal.CLS_ATTENTION: "CLS attention",
    Signal.PATCH_TOKENS: "patch tokens",
}
KINDS = {"vit": "a ViT", "cnn": "a CNN", "other": "neither ViT nor CNN"}


def check_reads(
    loss: str,
    reads: Iterable[Read],
    *,
    role: Literal["teacher", "student"],
    spec: ModelSpec,
    alternatives: Mapping[str, frozenset[Signal]],
) -> None:
    """Refuse a loss that reads what its model does not reveal.

    `alternatives` maps the names of other losses to the teacher's signals they read; those that would work are
    proposed.
    Raises: SignalError for a signal or a layer that the model does not have, or a signal that is read twice.
    """
    reads = tuple(reads)
    for read in reads:
        if read.signal not in spec.signals:
            raise SignalError(_refusal(loss, read.signal, role, spec, alternatives))
        beyond = [index for index in read.indices(spec) if not 0 <= index < spec.layers]
        if beyond:
            raise SignalError(
                f"loss '{loss}' reads layer {beyond[0]} of the {role}'s {SPOKEN[read.signal]}; "
                f"{role} '{spec.name}' has layers 0 to {spec.layers - 1}; choose among these"
            )
    signals = [read.signal for read in reads]
    twice = next((signal for signal in signals if signals.count(signal) > 1), None)
    if twice is not None:
        raise SignalError(
            f"loss '{loss}' reads the {role}'s {SPOKEN[twice]} twice; "
            "one Read with all the layers is what the contract allows"
        )


def demand(reads: Iterable[Read], spec: ModelSpec) -> dict[Signal, tuple[int, ...]]:
    """The signals and layers that a model must reveal for all `reads` together."""
    layers: dict[Signal, set[int]] = {}
    for read in reads:
        layers.setdefault(read.signal, set()).update(read.indices(spec))
    return {signal: tuple(sorted(layers[signal])) for signal in Signal if signal in layers}


def restrict(outputs: Outputs, wanted: Wanted, reads: Iterable[Read], spec: ModelSpec) -> Outputs:
    """What one loss gets of a model's outputs: the signals it reads, with the layers it named, in its order."""
    parts: dict[Signal, Tensor | tuple[Tensor, ...] | None] = {}
    for read in reads:
        revealed = getattr(outputs, read.signal.value)
        if read.signal in LAYERED:
            positions = tuple(wanted[read.signal].index(index) for index in read.indices(spec))
            if read.signal is Signal.CLS_ATTENTION:
                whole = positions == tuple(range(len(wanted[read.signal])))
                revealed = revealed if whole else revealed[:, list(positions)]
            else:
                revealed = tuple(revealed[position] for position in positions)
        parts[read.signal] = revealed
    return Outputs(**{signal.value: part for signal, part in parts.items()})  # type: ignore[arg-type]


def _refusal(
    loss: str, signal: Signal, role: str, spec: ModelSpec, alternatives: Mapping[str, frozenset[Signal]]
) -> str:
    revealed = ", ".join(SPOKEN[known] for known in Signal if known in spec.signals) or "nothing"
    reason = spec.silent.get(signal)
    model = f"does not reveal it because {reason}; it" if reason else f"is {KINDS[spec.kind]} and"
    sentence = f"loss '{loss}' reads the {role}'s {SPOKEN[signal]}; {role} '{spec.name}' {model} reveals {revealed}"
    if role == "teacher":
        fitting = [name for name, needs in alternatives.items() if needs and needs <= spec.signals and name != loss]
        return f"{sentence}; try --loss {fitting[0]}" if fitting else f"{sentence}; choose another teacher"
    return f"{sentence}; choose another student"
