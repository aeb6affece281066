"""Kill harness for target banks: runs that fill or read a bank, killed at random moments and resumed.

    python -m tests.faults.bank_kills --runs 50 --seed 0 --out bank-kills.json

The small distillation of `kills` with two losses and two views, so that a run also reads what it wrote itself. Before
its start the bank is empty, full, or lacks a view and is read-only; with and without mixing; every fifth run has two
processes, one of which is killed as in `worker_kills`. At the end the run and the files of its bank must be bit-equal
to those of an undisturbed run that filled an empty bank, and a read-only bank must be as before. The file of --out is
written after every run, and the same command continues a harness that was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from tests.another_user import obey_permissions
from tests.faults import worker_kills
from tests.faults.kills import killed_run, line, summary
from tests.faults.scene import BankState, Scene
from tests.faults.victim import forked, warm

BANKED = {"data__views": 2, "data__workers": 0, "training__steps": 30, "trackers": '["metrics"]'}
UNMIXED = {"mixing__mixup": 0.0, "mixing__cutmix": 0.0}
STATES: tuple[BankState, ...] = get_args(BankState)
EVERY_PAIR = 5
"""Every run of this number has two processes."""


@dataclass(frozen=True)
class Variant:
    """The conditions of a run."""

    state: BankState
    mixed: bool
    processes: int

    @classmethod
    def of(cls, number: int) -> Variant:
        """The variant of the run with this number: all combinations in turn, fewer of them with two processes."""
        pair = number % EVERY_PAIR == EVERY_PAIR - 1
        place = number // EVERY_PAIR if pair else number - number // EVERY_PAIR
        return cls(STATES[place % len(STATES)], place // len(STATES) % 2 == 0, 2 if pair else 1)

    @property
    def scene(self) -> str:
        """The scene of all variants with this mixing and number of processes."""
        return f"{'mixed' if self.mixed else 'unmixed'}-{self.processes}"

    def prepared(self, folder: Path) -> Scene:
        """The scene, whose undisturbed run fills an empty bank."""
        changes = BANKED if self.mixed else BANKED | UNMIXED
        start = forked if self.processes == 1 else worker_kills.undisturbed_pair
        return Scene.prepared(folder, start, bank="empty", **changes)

    def killed(self, number: int, seed: int, scene: Scene) -> dict[str, Any]:
        """The record of a run of this variant."""
        scene = replace(scene, bank=self.state)
        if self.processes == 1:
            record = killed_run(number, seed, scene, forked)
        else:
            record = worker_kills.disturbed_run(number, seed, scene)
        return record | {"bank": self.state, "mixed": self.mixed, "processes": self.processes}


def in_turn(numbers: list[int], seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The runs with these numbers, in sequence; a scene is prepared for the first run that needs it."""
    scenes: dict[str, Scene] = {}
    for number in numbers:
        variant = Variant.of(number)
        if variant.scene not in scenes:
            (folder / variant.scene).mkdir()
            scenes[variant.scene] = variant.prepared(folder / variant.scene)
        record = variant.killed(number, seed, scenes[variant.scene])
        print(f"run {number}, {variant.scene}, {variant.state}: {line(record)}", flush=True)
        yield record


def counted(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures for the table in docs/reliability.md."""
    states = {state: sum(run["bank"] == state for run in runs) for state in STATES}
    pairs = sum(run["processes"] == 2 for run in runs)
    return summary(runs) | {"states": states, "unmixed": sum(not run["mixed"] for run in runs), "pairs": pairs}


def main() -> None:
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    facts = {"machine": machine(), "seed": given.seed}
    records: list[dict[str, Any]] = []
    if given.out.exists():
        kept = json.loads(given.out.read_text(encoding="utf-8"))
        if {name: kept[name] for name in facts} != facts:
            raise SystemExit(f"{given.out} has the results of another seed or machine; delete it first")
        records = kept["records"]
    folder = Path(tempfile.mkdtemp(prefix="distillkit-bank-kills-"))
    obey_permissions()
    warm()
    missing = sorted({*range(given.runs)} - {record["run"] for record in records})
    for record in in_turn(missing, given.seed, folder):
        records = sorted([*records, record], key=lambda each: int(each["run"]))
        content = facts | counted(records) | {"records": records}
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    found = counted(records)
    print(json.dumps(found, indent=1))
    if found["equal"] < found["runs"]:
        raise SystemExit(f"not all runs are bit-equal; see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
