"""The results in docs/reliability.md, without `make fuzz`: the fault harnesses and the tests of other faults.

    python -m tests.faults.whole --out docs/benchmarks/reliability.json

`--kills`, `--bank-kills`, `--bank-state-kills`, `--worker-kills` and `--others` read the output of an earlier run of
those harnesses instead of running them again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.faults.victim import environment

ROOT = Path(__file__).parents[2]
TESTS = (
    (
        "broken images",
        "truncated, empty, no image, wrong mode, decompression bomb, vanished, forbidden",
        "reported once, replaced deterministically, counted by kind; one sentence above data.broken",
        (
            "tests/running/test_broken_images.py",
            "tests/data/test_image_faults.py",
            "tests/data/test_replacement_images.py",
        ),
    ),
    (
        "a loss or a gradient that is not finite",
        "a loss that returns NaN at chosen steps, in one process and in two",
        "the step is skipped by all processes, counted, and reproduced by distillkit replay",
        ("tests/training/test_skip_nonfinite.py", "tests/training/test_giving_up.py"),
    ),
    (
        "a process that fails at its start",
        "a plugin that raises in one rank only",
        "all end with its message, no hang",
        ("tests/cli/test_failure_report.py", "tests/running/test_processes.py"),
    ),
    (
        "a plugin that breaks its contract",
        "raises at import, in a hook, in target; wrong shapes, dtypes, gradients",
        "named with its distribution and the hook",
        ("tests/awkward_plugins/test_broken_plugins.py", "tests/plugin/test_disabled.py"),
    ),
)


def harness(name: str, written: Path | None, *options: str) -> dict[str, Any]:
    """The output of one of the fault harnesses."""
    with tempfile.TemporaryDirectory() as folder:
        out = written or Path(folder) / "out.json"
        if written is None:
            command = [sys.executable, "-m", f"tests.faults.{name}", *options, "--out", str(out)]
            subprocess.run(command, cwd=ROOT, env=environment(), check=False)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def tested(files: tuple[str, ...]) -> dict[str, int]:
    """The numbers of tests in these files that ran and that passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
        subprocess.run(command, cwd=ROOT, env=environment(), check=False)
        (suite,) = ET.parse(report).getroot()  # noqa: S314 - pytest wrote it just now
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    ran = int(suite.attrib["tests"]) - int(suite.attrib["skipped"])
    return {"ran": ran, "passed": ran - failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--bank-runs", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--bank-state-runs", type=int, default=50)
    for name in ("kills", "bank-kills", "bank-state-kills", "worker-kills", "others"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--without-tests", action="store_true", help="leave out the tests of other faults")
    given = parser.parse_args()
    results = {
        "kills": harness("kills", given.kills, "--runs", str(given.runs)),
        "bank_kills": harness("kills", given.bank_kills, "--runs", str(given.bank_runs), "--bank"),
        "bank_state_kills": harness("bank_kills", given.bank_state_kills, "--runs", str(given.bank_state_runs)),
        "worker_kills": harness("worker_kills", given.worker_kills, "--runs", str(given.pairs)),
        "others": harness("others", given.others),
        "tests": [
            {"fault": fault, "injected": injected, "promised": promised, "files": files} | tested(files)
            for fault, injected, promised, files in (() if given.without_tests else TESTS)
        ],
    }
    given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
