"""Results for "Data as people have it" and "Places and permissions" in docs/reliability.md: the tests of every row.

    python -m tests.faults.inputs --out docs/benchmarks/reliability-inputs.json

The rows are in `inputs.toml`. All their tests run once, in one pytest; a few minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.faults.victim import environment

ROOT = Path(__file__).parents[2]
ROWS = Path(__file__).with_suffix(".toml")

Outcomes = Mapping[str, bool]
"""Whether each test passed, by its name in pytest's report; skipped tests are left out."""


def sections() -> list[dict[str, Any]]:
    """The sections of `inputs.toml`: title, about, groups of rows."""
    found: list[dict[str, Any]] = tomllib.loads(ROWS.read_text(encoding="utf-8"))["sections"]
    return found


def rows(given: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All rows of some sections."""
    for section in given:
        for group in section["groups"]:
            yield from group["rows"]


def outcomes(tests: list[str]) -> dict[str, bool]:
    """Run some tests in one pytest."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        subprocess.run(command, cwd=ROOT, env=environment(), check=False)
        cases = ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it just now
        return {
            f"{case.attrib['classname']}.{case.attrib['name']}": not {"failure", "error"} & {part.tag for part in case}
            for case in cases
            if case.find("skipped") is None
        }


def counted(tests: list[str], found: Outcomes) -> dict[str, int]:
    """The numbers of tests of a row that ran and that passed."""
    names = [test.replace("/", ".").replace(".py", "").replace("::", ".") for test in tests]
    ran = {case: passed for case, passed in found.items() if any(_is_of(case, name) for name in names)}
    return {"ran": len(ran), "passed": sum(ran.values())}


def _is_of(case: str, name: str) -> bool:
    """Whether a case is a test, one of its parameters, or in its class or file."""
    return case == name or case.startswith((f"{name}.", f"{name}["))


def main() -> None:
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = sections()
    every = outcomes(sorted({test for row in rows(found) for test in row["tests"]}))
    for row in rows(found):
        row.update(counted(row["tests"], every))
    tests, passed = len(every), sum(every.values())
    results = {"machine": machine(), "tests": tests, "passed": passed, "sections": found}
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if passed < tests:
        raise SystemExit(f"{tests - passed} of {tests} tests failed")


if __name__ == "__main__":
    main()
