"""Find signals that a loss reads without declaring them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch

from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal
from distillkit.contracts.signal_matching import SIGNAL_NAMES
from distillkit.messages.text import with_type
from distillkit.testing.loss_case import LossCase
from distillkit.testing.synthetic import map_outputs, synthetic_outputs

NAMES = frozenset(signal.value for signal in Signal)
Result = TypeVar("Result")


class RecordingOutputs(Outputs):
    """Outputs that record which of their signals are read. Shapes: as `Outputs`."""

    @property
    def seen(self) -> set[Signal]:
        """Signals read so far."""
        seen: set[Signal] = self.__dict__.setdefault("_seen", set())
        return seen

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            self.seen.add(Signal(name))
        return super().__getattribute__(name)


def undeclared(case: LossCase) -> Iterator[str]:
    """A loss does not need undeclared signals: models do not compute them, so they are None or empty.

    A loss may test whether such a signal exists. If it fails without the signal and works with it, the declaration is
    missing.
    """
    loss, teacher, student = case.build(), case.pair.teacher, case.pair.student
    with torch.no_grad():
        target, sentences = _try_reading(loss.target, "teacher", teacher, loss.reads_teacher, case.device)
        yield from sentences
        if target is not None:
            _, sentences = _try_reading(
                lambda outputs: loss(outputs, target, case.batch()), "student", student, loss.reads_student, case.device
            )
            yield from sentences


def _try_reading(
    read: Callable[[Outputs], Result],
    role: Literal["teacher", "student"],
    spec: ModelSpec,
    declared: frozenset[Read],
    device: str,
) -> tuple[Result | None, list[str]]:
    """Result of `read` on the declared signals, or on more if it needs more; and a sentence per missing declaration.

    If it fails for another reason there is neither result nor sentence; another check reports that.
    """

    def outputs_with(reads: frozenset[Read]) -> Outputs:
        return map_outputs(synthetic_outputs(spec, reads, seed=1), lambda tensor: tensor.to(device, torch.float32))

    outputs = outputs_with(declared)
    recording = RecordingOutputs(**{name: getattr(outputs, name) for name in NAMES})
    try:
        return read(recording), []
    # A missing signal is None or an empty tuple: AttributeError, TypeError, IndexError, ...
    except Exception as error:  # noqa: BLE001
        failure = with_type(error)
    missing = sorted(recording.seen - {each.signal for each in declared})
    try:
        result = read(outputs_with(declared | {Read(signal, "all") for signal in missing}))
    except Exception:  # noqa: BLE001 - the missing signal was not the reason
        return None, []
    return result, [
        f"reads the {role}'s {SIGNAL_NAMES[signal]}, which 'reads_{role}' does not declare ({failure}); "
        f"add Read(Signal.{signal.name})"
        for signal in missing
    ]
