"""Worker kill harness: SIGKILL one process of a run of two at random moments; only the launcher restarts them.

    python -m tests.faults.worker_kills --runs 10 --seed 0 --out worker-kills.json

The same distillation as in `kills`, in two processes, started alternately by `distillkit run --nproc 2` and
`torchrun --max-restarts 3`. One of the processes is killed with SIGKILL once or twice. The command must end without
help and leave no process behind, and every file must be bit-equal to that of an undisturbed run of two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.faults.equality import require_readable
from tests.faults.kills import ATTEMPTS
from tests.faults.kills import summary as of_kills
from tests.faults.moments import POLL_S
from tests.faults.scene import Scene
from tests.faults.victim import Victim, fresh

LIMIT_S = 900.0
"""Time limit of a run; a longer one hangs. The machine may be busy with other work."""
PROCESSES = 2
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES), "--max-restarts", "3")
LAUNCHERS = ("distillkit run --nproc", "torchrun")


def started(launcher: str, given: list[str], log: Path) -> Victim:
    """The two processes and their launcher."""
    if launcher == "torchrun":
        return fresh(given, log, launcher=(*TORCHRUN, "-m", "distillkit_cli"))
    return fresh([*given, "--nproc", str(PROCESSES)], log)


def workers(out: Path) -> dict[int, int]:
    """The processes that train in `out`, by rank."""
    return {int(environment["RANK"]): pid for pid, environment in processes_of(out) if "RANK" in environment}


def processes_of(out: Path) -> list[tuple[int, dict[str, str]]]:
    """All processes with `out` on their command line, and their environments."""
    running = psutil.process_iter(["cmdline", "environ"])
    return [(each.pid, each.info["environ"] or {}) for each in running if str(out) in (each.info["cmdline"] or ())]


def disturbed_run(number: int, seed: int, scene: Scene) -> dict[str, Any]:
    """One run whose processes are killed; repeated if it ended before the first kill."""
    for attempt in range(ATTEMPTS):
        record = attempted(number, seed, scene, attempt)
        if record["kills"] or not record["equal"]:
            return record
    raise SystemExit(f"run {number} ended {ATTEMPTS} times before one of its processes could be killed")


def attempted(number: int, seed: int, scene: Scene, attempt: int) -> dict[str, Any]:
    """One attempt of a run: its kills, and whether it is bit-equal."""
    started_at = time.monotonic()
    out = scene.undisturbed.parent / f"pair-{number:03d}"
    scene.lay_out_bank(out)
    random_of = random.Random(f"{seed} pair {number} {attempt}")
    record: dict[str, Any] = {"run": number, "attempt": attempt, "launcher": LAUNCHERS[number % 2], "kills": []}
    launcher = started(record["launcher"], scene.arguments(out), out.with_suffix(".log"))
    killed: set[int] = set()
    for _ in range(random_of.randint(1, 2)):
        rank, from_start = random_of.randrange(PROCESSES), random_of.random() < 0.2
        after_s = random_of.uniform(0, scene.start_s if from_start else scene.steps_s)
        hit = _kill(launcher, out, rank, killed, from_start=from_start, after_s=after_s)
        if hit:
            record["kills"].append({"rank": rank, "hit": hit, "after_s": round(after_s, 3)})
    while launcher.poll() is None and time.monotonic() - started_at < LIMIT_S:
        time.sleep(0.05)
    record["code"] = launcher.code
    left = _left(out)
    record["left_behind"] = len(left)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        require_readable(out, since=0)
    except Exception as error:  # noqa: BLE001 - any error is a finding
        record["unreadable"] = f"{type(error).__name__}: {error}"
    record["differences"] = scene.differences(out) if launcher.code == 0 else ["the run did not end well"]
    record["equal"] = not record["differences"] and not record["left_behind"] and "Traceback" not in launcher.output()
    record["seconds"] = round(time.monotonic() - started_at, 1)
    if record["equal"]:
        scene.remove(out)
    else:
        record["said"] = launcher.output()[-2000:]
    return record


def _kill(launcher: Victim, out: Path, rank: int, killed: set[int], *, from_start: bool, after_s: float) -> str:
    """Kill the process of a rank, `after_s` seconds after it exists or trains.

    Returns what the run was doing, or "" if it ended before.
    """
    limit = time.monotonic() + LIMIT_S
    due = None
    while launcher.poll() is None and time.monotonic() < limit:
        here = {each: pid for each, pid in workers(out).items() if pid not in killed}
        if due is None and rank in here and (from_start or _trains(out, here.get(0))):
            due = time.monotonic() + after_s
        if due is not None and time.monotonic() >= due and rank in here:
            hit = _place(out, here.get(0))
            killed |= set(here.values())
            os.kill(here[rank], signal.SIGKILL)
            return hit
        time.sleep(0.05 if due is None else POLL_S)
    return ""


def _trains(out: Path, first: int | None) -> bool:
    try:
        return (out / ".lock").read_text(encoding="utf-8").strip() == str(first)
    except OSError:
        return False


def _place(out: Path, first: int | None) -> str:
    if not _trains(out, first):
        return "before training"
    if list((out / "checkpoints").glob(".step-*.tmp")):
        return "writing a checkpoint"
    return "writing results" if (out / "student.safetensors").exists() else "training"


def _left(out: Path) -> list[int]:
    """The processes that still run ten seconds after their launcher ended."""
    end = time.monotonic() + 10
    while time.monotonic() < end and processes_of(out):
        time.sleep(0.2)
    return [pid for pid, _ in processes_of(out)]


def undisturbed_pair(given: list[str], log: Path) -> Victim:
    """Start the teacher's run in one process, and the undisturbed one in two."""
    return fresh(given, log) if "--auto-resume" not in given else started(LAUNCHERS[0], given, log)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures for the table in docs/reliability.md."""
    return of_kills(runs) | {"left_behind": sum(run["left_behind"] for run in runs)}


def main() -> None:
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="distillkit-worker-kills-"))
    scene = Scene.prepared(folder, undisturbed_pair)
    records = []
    for number in range(given.runs):
        records.append(disturbed_run(number, given.seed, scene))
        hits = ", ".join(kill["hit"] for kill in records[-1]["kills"])
        print(f"run {number}: {hits}: {'equal' if records[-1]['equal'] else records[-1]}", flush=True)
    found = summary(records)
    results = {"machine": machine(), "seed": given.seed, "seconds": round(time.monotonic() - started_at), **found}
    given.out.write_text(json.dumps(results | {"records": records}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if found["equal"] < found["runs"]:
        raise SystemExit(f"not all runs are bit-equal; see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
