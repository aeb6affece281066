"""Match the signals that losses read with those that models reveal, before weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from distillkit.contracts.model import LAYERED, ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

SIGNAL_NAMES = {
    Signal.LOGITS: "logits",
    Signal.DISTILL_LOGITS: "distillation logits",
    Signal.EMBEDDING: "embedding",
    Signal.CLS_ATTENTION: "CLS attention",
    Signal.PATCH_TOKENS: "patch tokens",
    Signal.RAW_TOKENS: "raw tokens",
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
    """Check that a model reveals the signals and layers that a loss reads.

    `alternatives` maps the names of other losses to the teacher signals that they read, to suggest one that would work.
    Raises: SignalError for a signal or a layer that the model does not have, or a signal that is read twice.
    """
    # Of a set, whose order differs from one process to the next.
    reads = sorted(reads, key=lambda read: tuple(Signal).index(read.signal))
    for read in reads:
        if read.signal not in spec.signals:
            raise SignalError(_refusal(loss, read.signal, role, spec, alternatives))
        beyond = [index for index in read.indices(spec) if not 0 <= index < spec.layers]
        if beyond:
            raise SignalError(
                f"loss '{loss}' reads layer {beyond[0]} of the {role}'s {SIGNAL_NAMES[read.signal]}; "
                f"{role} '{spec.name}' has layers 0 to {spec.layers - 1}; choose among these"
            )
    signals = [read.signal for read in reads]
    twice = next((signal for signal in signals if signals.count(signal) > 1), None)
    if twice is not None:
        raise SignalError(
            f"loss '{loss}' reads the {role}'s {SIGNAL_NAMES[twice]} twice; "
            "the contract allows one Read per signal, with all layers"
        )


def wanted_signals(reads: Iterable[Read], spec: ModelSpec) -> dict[Signal, tuple[int, ...]]:
    """The union of the signals and layers of all `reads`, to request from a model."""
    layers: dict[Signal, set[int]] = {}
    for read in reads:
        layers.setdefault(read.signal, set()).update(read.indices(spec))
    return {signal: tuple(sorted(layers[signal])) for signal in Signal if signal in layers}


def restrict(outputs: Outputs, wanted: Wanted, reads: Iterable[Read], spec: ModelSpec) -> Outputs:
    """The part of a model's outputs that one loss receives: its signals, with its layers in its order."""
    parts: dict[Signal, Tensor | tuple[Tensor, ...] | None] = {}
    for read in reads:
        revealed = getattr(outputs, read.signal.value)
        if read.signal in LAYERED:
            positions = tuple(wanted[read.signal].index(index) for index in read.indices(spec))
            if read.signal is Signal.CLS_ATTENTION:
                # Indexing with a list copies the tensor, so a loss that reads every layer gets the original.
                is_all = positions == tuple(range(len(wanted[read.signal])))
                revealed = revealed if is_all else revealed[:, list(positions)]  # [B, L', A, 1 + N]
            else:
                revealed = tuple(revealed[position] for position in positions)
        parts[read.signal] = revealed
    return Outputs(**{signal.value: part for signal, part in parts.items()})  # type: ignore[arg-type]


def _refusal(
    loss: str, signal: Signal, role: str, spec: ModelSpec, alternatives: Mapping[str, frozenset[Signal]]
) -> str:
    revealed = ", ".join(SIGNAL_NAMES[known] for known in Signal if known in spec.signals) or "nothing"
    reason = spec.silent.get(signal)
    model = f"does not reveal it because {reason}; it" if reason else f"is {KINDS[spec.kind]} and"
    sentence = (
        f"loss '{loss}' reads the {role}'s {SIGNAL_NAMES[signal]}; {role} '{spec.name}' {model} reveals {revealed}"
    )
    if role == "teacher":
        # A loss without teacher signals, such as ce, would always fit, but it does not distil.
        fitting = {name: needs for name, needs in alternatives.items() if needs and needs <= spec.signals}
        fitting.pop(loss, None)
        # The first that reads most of what the teacher reveals; logits last, since its classes may be others.
        best = max(fitting, key=lambda name: (Signal.LOGITS not in fitting[name], len(fitting[name])), default=None)
        return f"{sentence}; choose another teacher" if best is None else f"{sentence}; try --loss {best}"
    return f"{sentence}; choose another student"
