"""How hard each term of the loss pulled at the student, as the report shows it: a picture and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Steps = Sequence[Mapping[str, Any]]

PREFIX = "grad_norm/"
COLUMNS = 5
"""Steps that the table shows: the first, the last, and some between."""


def balanced(steps: Steps) -> Steps:
    """The records with a finite gradient norm of every one of several terms; none where the loss has only one."""
    return [entry for entry in steps if len(_norms(entry)) > 1 and math.isfinite(sum(_norms(entry).values()))]


def draw_balance(axes: Axes, measured: Steps) -> None:
    """The norms against steps, on a logarithmic axis; a norm of 0 has no place there and is left out.

    The terms have the colours that they have among the losses, where the first is the total's.
    """
    for number, name in enumerate(sorted(_norms(measured[0])), start=1):
        shown = [entry for entry in measured if _norms(entry).get(name, 0.0) > 0]
        norms = [_norms(entry)[name] for entry in shown]
        axes.semilogy([entry["step"] for entry in shown], norms, f"C{number % 10}", label=_term(name), linewidth=1.2)
    axes.set(xlabel="optimiser step", ylabel="gradient norm of weight x term")
    axes.legend(frameon=False)


def balance_table(measured: Steps) -> str:
    """Norm and share of every term at steps spread over the run, the first one measured at the front."""
    spread = {round(number * (len(measured) - 1) / (COLUMNS - 1)) for number in range(COLUMNS)}
    columns = [measured[number] for number in sorted(spread)]
    steps = [f"step {entry['step']:,.0f}" for entry in columns]
    rows = [["term", *steps], ["---", *("---:" for _ in columns)]]
    rows += [[_term(name), *(_cell(_norms(entry), name) for entry in columns)] for name in _norms(columns[0])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _norms(entry: Mapping[str, Any]) -> dict[str, float]:
    return {key.removeprefix(PREFIX): value for key, value in entry.items() if key.startswith(PREFIX)}


def _cell(norms: Mapping[str, float], name: str) -> str:
    total = sum(norms.values())
    norm = norms.get(name, 0.0)
    return f"{norm:.3g} ({100 * norm / total:.1f} %)" if total else "0"


def _term(name: str) -> str:
    return "/".join(dict.fromkeys(name.split("/")))
