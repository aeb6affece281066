"""The tables of docs/reliability.md, from the results of tests/faults and `make fuzz`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from writers.reliability_inputs import sections

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FOUND, FUZZED = BENCHMARKS / "reliability.json", BENCHMARKS / "reliability-fuzz.json"


def page() -> str:
    """One row per fault, then the sections with one row per input."""
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    machine = found["kills"]["machine"]
    rows = ["| fault | how it is injected | guarantee | result |", "|---|---|---|---|"]
    fuzzed = json.loads(FUZZED.read_text(encoding="utf-8"))
    rows += [f"| {' | '.join(row)} |" for row in (*_rows(found), *_fuzzed(fuzzed))]
    measured = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    versions = f"Python {machine['python']}, torch {machine['torch']}"
    return "\n".join(rows) + f"\n\nMeasured on: {measured}; {versions}.\n\n{sections()}"


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    kills, pairs = found["kills"], found["worker_kills"]
    yield (
        "the process is killed",
        "SIGKILL at random moments, several times per run (`tests/faults/kills.py`)",
        "bit-equal to the undisturbed run, the run directory readable after every kill",
        f"{kills['equal']} of {kills['runs']} runs bit-equal, {kills['unreadable']} unreadable; {_hits(kills)}",
    )
    yield (
        "one of two processes is killed",
        "SIGKILL to either at random moments, under `--nproc 2` and torchrun (`tests/faults/worker_kills.py`)",
        "restarted from the last checkpoint, bit-equal to two undisturbed processes, no process left behind",
        f"{pairs['equal']} of {pairs['runs']} runs bit-equal, {pairs['left_behind']} processes left; {_hits(pairs)}",
    )
    banks = found["bank_kills"]
    yield (
        "the process is killed while it fills a target bank",
        "the same, with `--bank`",
        "bit-equal to the undisturbed run, which fills a bank of its own",
        f"{banks['equal']} of {banks['runs']} runs bit-equal, {banks['unreadable']} unreadable; {_hits(banks)}",
    )
    yield _bank_states(found["bank_state_kills"])
    for case in found["others"]["records"]:
        result = "held" if case["held"] else f"**did not hold**: {' '.join(case['why'].split())[:200]}"
        detail = f" ({case['detail']})" if case.get("detail") else ""
        yield case["fault"], case["injected"], case["promised"], result + detail
    for case in found["tests"]:
        files = ", ".join(f"`{file}`" for file in case["files"])
        yield (
            case["fault"],
            f"{case['injected']} ({files})",
            case["promised"],
            f"{case['passed']} of {case['ran']} tests passed",
        )


def _bank_states(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    conditions = f"{states}; {found['unmixed']} without mixing, {found['pairs']} of two processes"
    result = f"{found['equal']} of {found['runs']} runs bit-equal ({conditions}), {found['unreadable']} unreadable"
    return (
        "the process is killed while it fills or reads a target bank",
        "a bank that is empty, full, or incomplete and read-only at the start (`tests/faults/bank_kills.py`)",
        "run and bank bit-equal to those of the undisturbed run; a read-only bank is not changed",
        f"{result}; {_hits(found)}",
    )


def _fuzzed(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for case in found["rows"]:
        outcome = f"{case['runs']:,} tried: {case['result']}"
        failed = f"; **{found['tests_failed']} tests failed**" if found["tests_failed"] else ""
        yield case["fault"], f"{case['injection']} (`{found['command']}`)", case["promise"], outcome + failed


def _hits(found: Mapping[str, Any]) -> str:
    hits = ", ".join(f"{count} {hit}" for hit, count in found["hits"].items())
    return f"{found['kills']} kills: {hits}"
