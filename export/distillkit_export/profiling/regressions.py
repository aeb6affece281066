"""Compare a profile with an earlier one of the same machine and fail on regressions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from distillkit.compute.machine import MachineCard
from distillkit.errors import GateError, UserError
from distillkit_export.profiling.schema import Mode, ProfileCard

ALLOWED = 10.0
"""Default limit on a regression in percent. Repeated profiles on an idle machine differ by less."""


@dataclass(frozen=True)
class Change:
    """Median latency of one row in the baseline and now, and the caveats of both."""

    configuration: str
    batch: int
    mode: Mode
    before_ms: float
    now_ms: float
    caveats: tuple[str, ...]

    @property
    def percent(self) -> float:
        """Increase of the latency in percent."""
        return 100 * (self.now_ms / self.before_ms - 1)

    def line(self) -> str:
        """One line of the comparison."""
        not_judged = f"; not judged ({'; '.join(self.caveats)})" if self.caveats else ""
        return (
            f"{self.configuration}, batch {self.batch}, {self.mode}: {self.before_ms:.3g} -> {self.now_ms:.3g} ms "
            f"({self.percent:+.1f} %){not_judged}"
        )


def changes(before: ProfileCard, now: ProfileCard) -> list[Change]:
    """The changes of all rows that both profiles have.

    Raises: UserError if the machines differ or no row is in both.
    """
    require_comparable(before, now.machine)
    found = list(_common(before, now))
    if not found:
        raise UserError(
            f"the baseline and this profile have no configuration, batch and mode in common; the baseline has "
            f"{_has(before)}"
        )
    return found


def require_comparable(before: ProfileCard, here: MachineCard, names: Collection[str] | None = None) -> None:
    """Refuse a baseline that cannot be compared, before anything is measured.

    `names` are the configurations to be measured, if known.
    Raises: UserError if it is of another machine or has none of the configurations.
    """
    then, now = _hardware(before.machine), _hardware(here)
    if then != now:
        raise UserError(f"the baseline was measured on {then}, but this machine is {now}; measure a baseline here")
    if names is not None and not {row.configuration for row in before.rows} & set(names):
        raise UserError(
            f"the baseline has none of the configurations that would be measured, {', '.join(names)}; it has "
            f"{_has(before)}"
        )


def require_no_regression(found: list[Change], allowed: float = ALLOWED) -> None:
    """Raise GateError with the worst row if a row without caveats is more than `allowed` percent slower."""
    slower = [change for change in found if change.percent > allowed and not change.caveats]
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
        caveats = [f"baseline: {caveat}" for caveat in then.caveats] + [f"now: {caveat}" for caveat in row.caveats]
        yield Change(row.configuration, row.batch, row.mode, then.p50_ms, row.p50_ms, tuple(caveats))


def _has(card: ProfileCard) -> str:
    return ", ".join(sorted({row.configuration for row in card.rows})) or "none"


def _hardware(machine: MachineCard) -> str:
    gpus = ", ".join(gpu.name for gpu in machine.gpus)
    return f"{machine.processor} with {machine.cpus} CPUs" + (f" and {gpus}" if gpus else "")
