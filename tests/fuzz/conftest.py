"""Shared parts of the fuzz tests: the promise to check, the number of inputs, and the tally in docs/reliability.md.

Quick by default. `make fuzz` tries many more inputs (DISTILLKIT_FUZZ=15, a factor) and writes the tally to the file
DISTILLKIT_FUZZ_TALLY.
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
"""Time limit of an input. Generous, since the machine may be busy; an input that hangs never ends."""
EXTRA_BYTES = 2 * 2**30
"""Memory that an input may allocate; the malicious ones announce at least 100 times as much."""
MAX_CHARACTERS = 6_000
"""Length limit of a message."""


@dataclass
class Tally:
    """Number of inputs of a kind that were tried, refused and accepted."""

    input: str
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0


TALLIES: dict[str, Tally] = {}


class Hang(BaseException):
    """An input exceeded the time limit. A BaseException, so that no `except Exception` catches it."""


@contextmanager
def _bounded():
    """Limit time and memory to what a valid input needs."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + EXTRA_BYTES, limits[1]))
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
    """Assert that a message is one line, or a line and a list, without control characters."""
    first, *listed = text.split("\n")
    assert first.strip()
    assert all(line.startswith("  ") for line in listed), text
    assert not any(character < " " or character == "\x7f" for line in (first, *listed) for character in line), text
    text.encode()  # no lone surrogates
    assert "Traceback" not in text
    assert len(text) <= MAX_CHARACTERS, f"{len(text)} characters"


@pytest.fixture(scope="session")
def attempt() -> Callable[..., Any]:
    """`attempt("recipe file", call)`: the result of `call()`, or None if it is refused with a valid message."""

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


PROMISE = "a one-line error or a valid result, within bounded time and memory; nothing is executed"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the tally: one row of the table in docs/reliability.md per kind of file."""
    where = os.environ.get("DISTILLKIT_FUZZ_TALLY")
    if not where or not TALLIES:
        return
    things: dict[str, list[Tally]] = {}
    for tally in TALLIES.values():
        things.setdefault(tally.input.partition(",")[0], []).append(tally)
    failed = session.testsfailed
    facts = {
        "command": "make fuzz",
        "tried": sum(tally.tried for tally in TALLIES.values()),
        "tests_failed": failed,
        "rows": [_row(thing, tallies, failed=failed) for thing, tallies in things.items()],
        "inputs": [{**asdict(tally), "seconds": round(tally.seconds, 1)} for tally in TALLIES.values()],
    }
    Path(where).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _row(thing: str, tallies: list[Tally], *, failed: int) -> dict[str, object]:
    refused, accepted = (sum(getattr(tally, name) for tally in tallies) for name in ("refused", "accepted"))
    return {
        "fault": f"{thing}: truncated, altered or made up",
        "injection": "; ".join(tally.input.partition(", ")[2] or "typed at random" for tally in tallies),
        "promise": PROMISE,
        "result": f"{refused:,} refused, {accepted:,} read" + (", some tests failed" if failed else ""),
        "runs": sum(tally.tried for tally in tallies),
    }
