"""Kill harness: SIGKILL runs at random moments, resume them, and compare the results with an undisturbed run.

    python -m tests.faults.kills --runs 50 --seed 0 --parallel 2 --out kills.json

Every run is a small distillation on digits with everything random or stateful on (`victim.EVERYTHING`). It is killed
up to six times: while it starts, between steps, while it writes a checkpoint, replaces the best student or writes its
results. After every kill its directory must be readable. Then it runs to its end, and every file must be bit-equal to
that of the undisturbed run. The first start is a new interpreter; later ones, with `--short` all of them, are forked
from a process that has imported the same modules and computed nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.equality import require_readable
from tests.faults.moments import NEVER, Moment, drawn, left_behind, place
from tests.faults.scene import SHORT, BankState, Scene, Start
from tests.faults.victim import LOSSES, PREPARED, environment, forked, fresh, warm

WARM_SHARE = 0.35
"""Approximate share of the start-up time without imports."""
ATTEMPTS = 5
"""The number of attempts for a run that ends before it was killed."""


def moments(scene: Scene, number: int, seed: int, attempt: int) -> list[Moment]:
    """The moments at which the run of this number is killed."""
    random_of, warm_s = random.Random(f"{seed} {number} {attempt}"), scene.start_s * WARM_SHARE
    return drawn(random_of, start_s=scene.start_s, warm_s=warm_s)


def killed_run(number: int, seed: int, scene: Scene, first: Start) -> dict[str, Any]:
    """One run, killed and resumed to its end; repeated if it ended before the first kill."""
    for attempt in range(ATTEMPTS):
        record = attempted(number, seed, scene, first, attempt)
        if record["kills"] or not record["equal"]:
            return record
    raise SystemExit(f"run {number} ended {ATTEMPTS} times before it could be killed")


def attempted(number: int, seed: int, scene: Scene, first: Start, attempt: int) -> dict[str, Any]:
    """One attempt of a run that `first` starts: its kills, and whether it is bit-equal."""
    started_at = time.monotonic()
    out = scene.undisturbed.parent / f"run-{number:03d}"
    scene.lay_out_bank(out)
    record: dict[str, Any] = {"run": number, "attempt": attempt, "kills": [], "starts": 0}
    newest = 0
    for moment in [*moments(scene, number, seed, attempt), NEVER]:
        record["starts"] += 1
        earlier = left_behind(out)
        given, log = scene.arguments(out), out.with_suffix(".log")
        is_new = record["starts"] == 1 and not moment.inside  # only a forked process can kill itself
        victim = first(given, log) if is_new else forked(given, log, moment.arm(out))
        killed = moment.strike(victim, out)
        if not killed:
            record["code"] = victim.code
            if victim.code != 0:
                record["said"] = victim.output()[-2000:]
            break
        record["kills"].append({"aim": moment.kind, "hit": place(out, victim.pid, earlier=earlier)} | _rounded(moment))
        try:
            newest = require_readable(out, since=newest)
        except Exception as error:  # noqa: BLE001 - any error is a finding
            record["unreadable"] = f"{type(error).__name__}: {error}"
            break
    record["differences"] = scene.differences(out) if record.get("code") == 0 else ["the run did not end"]
    record["equal"] = not record["differences"]
    record["seconds"] = round(time.monotonic() - started_at, 1)
    if record["equal"]:
        scene.remove(out)
    return record


def _rounded(moment: Moment) -> dict[str, Any]:
    return {"count": moment.count} if moment.inside else {"after_s": round(moment.after_s, 4), "count": moment.count}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures for the table in docs/reliability.md."""
    kills = [kill for run in runs for kill in run["kills"]]
    return {
        "runs": len(runs),
        "equal": sum(run["equal"] for run in runs),
        "unreadable": sum("unreadable" in run for run in runs),
        "kills": len(kills),
        "hits": dict(sorted(Counter(kill["hit"] for kill in kills).items())),
    }


def in_turn(numbers: Iterable[int], seed: int, scene: Scene, first: Start = fresh) -> list[dict[str, Any]]:
    """The runs with these numbers, in sequence."""
    records = []
    for number in numbers:
        records.append(killed_run(number, seed, scene, first))
        print(f"run {number}: {line(records[-1])}", flush=True)
    return records


def in_processes(
    runs: int, seed: int, parallel: int, folder: Path, *, bank: BankState | None, losses: Sequence[str]
) -> list[dict[str, Any]]:
    """All runs, split between `parallel` processes, each of which imports once and forks."""
    scene = Scene.prepared(folder, bank=bank, losses=losses)
    scene_file = folder / "scene.json"
    scene_file.write_text(json.dumps(asdict(scene), default=str), encoding="utf-8")
    parts = [folder / f"part-{part}.json" for part in range(parallel)]
    common = [sys.executable, "-m", "tests.faults.kills", "--runs", str(runs), "--seed", str(seed)]
    processes = [
        subprocess.Popen(
            [*common, "--scene", str(scene_file), "--part", f"{part}/{parallel}", "--out", str(file)], env=environment()
        )
        for part, file in enumerate(parts)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit("a process of the harness failed")
    records = [record for file in parts for record in json.loads(file.read_text(encoding="utf-8"))]
    return sorted(records, key=lambda record: record["run"])


def main() -> None:
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="shorter runs, in sequence, all starts forked")
    parser.add_argument("--bank", action="store_true", help="every run fills a target bank of its own")
    parser.add_argument("--prepared", action="store_true", help="losses that are prepared before the first step")
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", default="0/1", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.scene:
        saved = json.loads(given.scene.read_text(encoding="utf-8"))
        teacher, undisturbed = Path(saved["teacher"]), Path(saved["undisturbed"])
        times = saved["start_s"], saved["steps_s"]
        scene = Scene(teacher, undisturbed, *times, bank=saved["bank"], losses=saved["losses"])
        warm()
        part, parts = map(int, given.part.split("/"))
        records = in_turn(range(part, given.runs, parts), given.seed, scene)
        given.out.write_text(json.dumps(records), encoding="utf-8")
        return
    started_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="distillkit-kills-"))
    bank: BankState | None = "empty" if given.bank else None
    losses = PREPARED if given.prepared else LOSSES
    if given.short:
        warm()
        scene = Scene.prepared(folder, forked, bank=bank, losses=losses, **SHORT)
        runs = in_turn(range(given.runs), given.seed, scene, forked)
    else:
        runs = in_processes(given.runs, given.seed, given.parallel, folder, bank=bank, losses=losses)
    found = summary(runs)
    results = {"machine": machine(), "seed": given.seed, "seconds": round(time.monotonic() - started_at), **found}
    given.out.write_text(json.dumps(results | {"records": runs}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if found["equal"] < found["runs"]:
        raise SystemExit(f"not all runs are bit-equal; see {folder}")
    shutil.rmtree(folder)


def line(record: Mapping[str, Any]) -> str:
    """What is printed for a run."""
    hits = ", ".join(kill["hit"] for kill in record["kills"])
    verdict = "equal" if record["equal"] else f"DIFFERS {record.get('unreadable') or record['differences']}"
    return f"{len(record['kills'])} kills ({hits}), {verdict}, {record['seconds']} s"


if __name__ == "__main__":
    main()
