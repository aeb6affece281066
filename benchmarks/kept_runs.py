"""A grid of runs whose results are kept in a JSON file after each run, so that a grid that was stopped continues."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import machine

PROGRAM = Path(__file__).with_name("cpu_run.py")
SHOWN = ("test/top1", "knn/k20_top1", "linear/top1")
"""Figures that are printed after each run."""


@dataclass
class KeptRuns:
    """The results of a grid by the name of the run, in `file`, next to `facts`; `before` is a command such as `nice`.

    Raises: SystemExit if the file has the results of another grid.
    """

    file: Path
    facts: Mapping[str, Any]
    before: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.file.exists():
            return
        kept = json.loads(self.file.read_text(encoding="utf-8"))
        self.runs = kept.pop("runs")
        if kept != {"machine": machine(), **self.facts}:
            raise SystemExit(f"{self.file} has the results of other settings or another machine; delete it first")

    def run(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The result of the run with this name; runs it in its own process, unless it is kept."""
        return self.keep(name, lambda: self._trained(options))

    def keep(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result with this name; `make` returns it, with the entry `figures`, unless it is kept."""
        if name not in self.runs:
            found = self.runs[name] = make()
            content = {"machine": machine(), **self.facts, "runs": self.runs}
            self.file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            shown = ", ".join(f"{key} {value:.2f} %" for key, value in found["figures"].items() if key in SHOWN)
            print(f"{name}: {found.get('cpu_s', 0)} s, {shown}", file=sys.stderr, flush=True)
        return self.runs[name]

    def _trained(self, options: Mapping[str, Any]) -> dict[str, Any]:
        # At this size unfused attention is twice as fast in bf16 on a CPU as fused attention.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TIMM_FUSED_ATTN": "0"}
        with tempfile.TemporaryDirectory() as folder:
            out, file = Path(folder, "run"), Path(folder, "result.json")
            command = [*shlex.split(self.before), sys.executable, str(PROGRAM), str(out), str(file)]
            given = json.dumps(options)
            done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{given}\nexit {done.returncode}\n{done.stderr[-3000:]}")
            result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result
