"""Slower than before? A profile against an earlier one of the same machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from distillkit.errors import GateError, UserError
from distillkit_export.profiling.schema import MachineCard, Mode, ProfileCard

ALLOWED = 10.0
"""Percent. Two profiles of the same thing on a quiet machine differ by less."""


@dataclass(frozen=True)
class Change:
    """The median latency of one row, then and now, and what speaks against it."""

    configuration: str
    batch: int
    mode: Mode
    then_ms: float
    now_ms: float
    doubts: tuple[str, ...]

    @property
    def percent(self) -> float:
        """How much longer it takes now."""
        return 100 * (self.now_ms / self.then_ms - 1)

    def line(self) -> str:
        """One line of the comparison."""
        doubt = f"; not judged: {'; '.join(self.doubts)}" if self.doubts else ""
        return (
            f"{self.configuration}, batch {self.batch}, {self.mode}: {self.then_ms:.3g} -> {self.now_ms:.3g} ms "
            f"({self.percent:+.1f} %){doubt}"
        )


def changes(before: ProfileCard, now: ProfileCard) -> list[Change]:
    """Every row that both have.

    Raises: UserError where the machines differ, or nothing is in both.
    """
    require_comparable(before, now.machine)
    found = list(_common(before, now))
    if not found:
        raise UserError(
            f"the baseline has no configuration, batch and mode that was measured now; it has {_has(before)}"
        )
    return found


def require_comparable(before: ProfileCard, here: MachineCard, names: Collection[str] | None = None) -> None:
    """Refuse a baseline that says nothing of what is about to be measured: of `names`, where they are known.

    Raises: UserError where it is of another machine or has none of the configurations.
    """
    then, now = _hardware(before.machine), _hardware(here)
    if then != now:
        raise UserError(f"the baseline was measured on {then} and this is {now}; measure a baseline here")
    if names is not None and not {row.configuration for row in before.rows} & set(names):
        raise UserError(
            f"the baseline has none of the configurations that would be measured, {', '.join(names)}; it has "
            f"{_has(before)}"
        )


def require_no_regression(found: list[Change], allowed: float = ALLOWED) -> None:
    """Raise GateError naming the worst where something takes more than `allowed` percent longer beyond doubt."""
    slower = [change for change in found if change.percent > allowed and not change.doubts]
    if slower:
        worst = max(slower, key=lambda change: change.percent)
        raise GateError(
            f"{len(slower)} of {len(found)} measurements are more than {allowed:g} % slower than the baseline; the "
            f"worst is {worst.line()}"
        )


def _common(before: ProfileCard, now: ProfileCard) -> Iterator[Change]:
    for row in now.rows:
        then = before.row(row.configuration, row.batch, row.mode)
        if then is None or then.p50_ms is None or row.p50_ms is None:
            continue
        doubts = tuple(f"then, {doubt}" for doubt in then.doubts) + tuple(f"now, {doubt}" for doubt in row.doubts)
        yield Change(row.configuration, row.batch, row.mode, then.p50_ms, row.p50_ms, doubts)


def _has(card: ProfileCard) -> str:
    return ", ".join(sorted({row.configuration for row in card.rows})) or "none"


def _hardware(machine: MachineCard) -> str:
    gpus = ", ".join(gpu.name for gpu in machine.gpus)
    return f"{machine.processor} with {machine.cpus} CPUs" + (f" and {gpus}" if gpus else "")
