"""What every fuzz test promises, how many inputs it tries, and the tally that docs/reliability.md shows.

Quick by default. `make fuzz` tries many more (DISTILLKIT_FUZZ=15, a factor) and writes the tally to the file that
DISTILLKIT_FUZZ_TALLY names.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from distillkit.errors import DistillkitError

FACTOR = int(os.environ.get("DISTILLKIT_FUZZ", "1"))
settings.register_profile(
    "fuzz",
    settings.get_profile("distillkit"),
    max_examples=10 * FACTOR,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SECONDS = 60
"""Of the clock, on a machine that may be busy; what hangs takes for ever."""
ROOM_BYTES = 2 * 2**30
"""What an input may make the process ask for beyond what it has: none announces less than 100 times as much."""
LONGEST = 6_000
"""Characters of a sentence, or of a list of sentences."""


@dataclass
class Tally:
    """How many inputs of a kind were tried, and what became of them."""

    input: str
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0


TALLIES: dict[str, Tally] = {}


class Hang(BaseException):
    """An input took longer than any may take; no `except Exception` holds it up."""


@contextmanager
def _bounded():
    """End what takes too long, and give no more memory than an honest input needs."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM_BYTES, limits[1]))
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _too_long(*_: object) -> None:
    raise Hang(f"no answer after {SECONDS} seconds")


def one_sentence(text: str) -> None:
    """Assert that this is what a user is told: one line, or a list, with nothing that moves a cursor."""
    first, *listed = text.split("\n")
    assert first.strip()
    assert all(line.startswith("  ") for line in listed), text
    assert not any(character < " " or character == "\x7f" for line in (first, *listed) for character in line), text
    text.encode()  # no halves of surrogate pairs
    assert "Traceback" not in text
    assert len(text) <= LONGEST, f"{len(text)} characters"


@pytest.fixture(scope="session")
def attempt() -> Callable[..., Any]:
    """`attempt("recipe file", call)`: what `call()` gives, or None where it is refused as promised."""

    def run(kind: str, call: Callable[[], Any]) -> Any:
        tally = TALLIES.setdefault(kind, Tally(kind))
        tally.tried += 1
        start = time.perf_counter()
        try:
            with _bounded():
                given = call()
        except DistillkitError as error:
            tally.refused += 1
            refused = error
        else:
            tally.accepted += 1
            return given
        finally:
            tally.seconds += time.perf_counter() - start
        assert refused.exit_code in {1, 2}
        one_sentence(str(refused))
        return None

    return run


PROMISE = "one sentence or a valid result, within bounded time and memory; nothing is executed"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the tally, one row for the table of docs/reliability.md for each thing that is read."""
    where = os.environ.get("DISTILLKIT_FUZZ_TALLY")
    if not where or not TALLIES:
        return
    things: dict[str, list[Tally]] = {}
    for tally in TALLIES.values():
        things.setdefault(tally.input.partition(",")[0], []).append(tally)
    failed = session.testsfailed
    said = {
        "command": "make fuzz",
        "tried": sum(tally.tried for tally in TALLIES.values()),
        "tests_failed": failed,
        "rows": [_row(thing, tallies, failed=failed) for thing, tallies in things.items()],
        "inputs": [{**asdict(tally), "seconds": round(tally.seconds, 1)} for tally in TALLIES.values()],
    }
    Path(where).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _row(thing: str, tallies: list[Tally], *, failed: int) -> dict[str, object]:
    refused, accepted = (sum(getattr(tally, name) for tally in tallies) for name in ("refused", "accepted"))
    return {
        "fault": f"{thing}: torn, altered or made up",
        "injection": "; ".join(tally.input.partition(", ")[2] or "typed at random" for tally in tallies),
        "promise": PROMISE,
        "result": f"{refused:,} refused, {accepted:,} read" + (", some tests failed" if failed else ""),
        "runs": sum(tally.tried for tally in tallies),
    }
