"""Train one run in this process, and write what its steps cost: CPU seconds, user and system, of all its threads.

    python benchmarks/cpu_run.py OUT FILE < OPTIONS

OPTIONS is a JSON object with the options of `distillkit.run`, and FILE receives a JSON object. Counted is the time from
the first step to the end of the last epoch: loading images, teacher, student and bank. Imports, weights and the
evaluation at the end are not counted. CPU seconds do not depend on what else runs on the machine, as seconds do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import distillkit

ONE_THREAD: Mapping[str, Any] = {
    "recipe": "cifar10-few-labels",
    "data.labels": None,
    "data.validation": 0.0,
    "data.workers": 0,
    "training.threads": 1,
    "training.device": "cpu",
}
"""Options of runs on CIFAR-10 with all labels, in one thread of one process."""


class CpuClock:
    """Observer that measures the CPU time of the training part of a run."""

    seconds = 0.0

    def distillkit_run_started(self) -> None:
        self._start = time.process_time()

    def distillkit_epoch_ended(self, record: Mapping[str, float]) -> None:  # noqa: ARG002 - the hook's argument
        self.seconds = time.process_time() - self._start


def trained(options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Run with these options; cost, figures, uses of the bank, and a digest of the trained weights."""
    clock = CpuClock()
    distillkit.run(out=out, observers=(clock,), **options)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    weights = sha256((out / "student.safetensors").read_bytes()).hexdigest()
    found = {"cpu_s": round(clock.seconds, 2), "figures": result["figures"], "losses": result["losses"]}
    return {**found, "bank": result.get("bank", {}), "weights": weights, "precision": options["training.precision"]}


if __name__ == "__main__":
    out, file = map(Path, sys.argv[1:])
    file.write_text(json.dumps(trained(json.load(sys.stdin), out)), encoding="utf-8")
