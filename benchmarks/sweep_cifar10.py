"""A sweep and a search, each once as a whole and once killed three times at random, and whether their results agree.

    python benchmarks/sweep_cifar10.py grid --train DIR --test DIR --teacher-weights FILE --work DIR --out FILE
    python benchmarks/sweep_cifar10.py search --work DIR --out FILE

`grid` runs 3 losses x 3 seeds of a small CNN on CIFAR-10 with a ResNet-20 and a bank; DIR are ImageFolder folders.
`search` runs 12 trials of a small DeiT on scikit-learn's digits. Both sweeps are `distillkit sweep` in its own process,
one arm at a time. A killed sweep gets SIGKILL at moments drawn from a third of the time of all arms, and is then run to
its end. The same command continues a measurement that was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import machine

KILLS = 3
GRID = ["--grid", "loss=hard,soft:tau=2,soft:tau=4", "--grid", "seed=0,1,2"]
SEARCH = [
    *("--search", "optimizer.lr=1e-4..1e-1:log", "--search", "optimizer.weight_decay=1e-3..0.3:log"),
    *("--search", "schedule.warmup_epochs=0..4", "--search", "labels.smoothing=0.0,0.1"),
]
TRIALS = 12


def options_of(arguments: argparse.Namespace) -> list[str]:
    """The options of a sweep without its folders."""
    shared = ["--set", "training.threads=1", "--set", "data.workers=0", "--device", "cpu"]
    if arguments.case == "search":
        return [*SEARCH, "--trials", str(TRIALS), "--set", f"training.epochs={arguments.epochs}", *shared]
    settings = ["data.labels=", f"data.test={arguments.test}", f"training.epochs={arguments.epochs}"]
    settings += ["student.width=16", "teacher.precision=fp32", "training.precision=fp32"]
    return [
        *GRID,
        *("--recipe", "cifar10-few-labels", "--data", str(arguments.train), "--student", "small-cnn"),
        *("--teacher", "cifar-resnet20", "--teacher-weights", str(arguments.teacher_weights)),
        *(word for setting in settings for word in ("--set", setting)),
        *shared,
    ]


def start(options: list[str], out: Path, bank: Path | None) -> subprocess.Popen[str]:
    """Start `distillkit sweep`; its notes go to a file next to its folder."""
    banked = [] if bank is None else ["--bank", str(bank)]
    command = [sys.executable, "-m", "distillkit_cli", "sweep", *options, *banked, "--out", str(out), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with out.with_suffix(".log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)


def finished(options: list[str], out: Path, bank: Path | None) -> dict[str, Any]:
    """The result of a sweep that runs to its end."""
    process = start(options, out, bank)
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}; see {out.with_suffix('.log')}")
    result: dict[str, Any] = json.loads(text)
    return result


def summary(result: dict[str, Any], out: Path) -> dict[str, Any]:
    """What both sweeps must agree on, by arm, and their times: figures, states, and a digest of the weights."""
    arms = {}
    for arm in result["arms"]:
        weights = out / arm["name"] / "student.safetensors"
        arms[arm["name"]] = {
            **{key: arm[key] for key in ("settings", "state", "why", "figures")},
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
            "duration_s": arm["duration_s"],
        }
    return {"best": result.get("best"), "arms": arms}


def main() -> None:
    """Run both sweeps and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("grid", "search"))
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=18, help="of the moments at which the second sweep is killed")
    parser.add_argument("--work", type=Path, required=True, help="folder for the sweeps and their banks")
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results")
    arguments = parser.parse_args()
    options, work = options_of(arguments), arguments.work
    work.mkdir(parents=True, exist_ok=True)
    banks = [work / f"bank-{name}" if arguments.case == "grid" else None for name in ("whole", "killed")]
    whole = summary(finished(options, work / "whole", banks[0]), work / "whole")
    third_s = sum(arm["duration_s"] or 0 for arm in whole["arms"].values()) / 3
    moments, kills = random.Random(arguments.seed), []
    while len(kills) < KILLS:
        process = start(options, work / "killed", banks[1])
        moment = moments.uniform(0, third_s)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            kills.append(round(moment, 1))
        process.communicate()
    killed = summary(finished(options, work / "killed", banks[1]), work / "killed")
    facts = {"case": arguments.case, "epochs": arguments.epochs, "kills_after_s": kills, "machine": machine()}
    arguments.out.write_text(json.dumps({**facts, "whole": whole, "killed": killed}, indent=1) + "\n", encoding="utf-8")
    print(f"equal: {_compared(whole) == _compared(killed)}", file=sys.stderr)


def _compared(found: dict[str, Any]) -> dict[str, Any]:
    """The part of a summary without times. The weights of a pruned trial depend on when its process was stopped."""
    arms = {
        name: {key: value for key, value in arm.items() if key != "duration_s"} for name, arm in found["arms"].items()
    }
    for arm in arms.values():
        if arm["state"] == "pruned":
            arm.pop("weights")
    return {"best": found["best"], "arms": arms}


if __name__ == "__main__":
    main()
