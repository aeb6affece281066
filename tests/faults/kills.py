"""Kill a run at random moments, let it go on, and hold what it comes to against a run that nothing disturbed.

    python -m tests.faults.kills --runs 50 --seed 0 --parallel 2 --out kills.json

Every run is a small distillation on digits with everything random or stateful on (`victim.EVERYTHING`). It is killed
with SIGKILL up to six times: while it starts, between steps, inside the writing of a checkpoint, while the best student
is exchanged, and while it writes its results; after every kill its directory must be readable. Then it goes on to its
end, and every file must be that of the undisturbed run, bit by bit. The first start is a new interpreter, later ones are
forked from a process that has imported the same modules and computed nothing.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.equality import differences, require_readable
from tests.faults.moments import Moment, drawn, left_behind, place
from tests.faults.victim import START_LIMIT_S, TEACHER, Victim, arguments, environment, forked, fresh, settings, warm

START_S, STEPS_S = 5.0, 3.0
"""About what the phases take on one core; only the spread of the moments depends on it."""


def prepared(folder: Path) -> tuple[Path, Path]:
    """A teacher, and the run that nothing disturbs, each in a new interpreter. Returns their directories."""
    teacher, undisturbed = folder / "teacher", folder / "undisturbed"
    for given in (["run", "--out", str(teacher), *settings(TEACHER)], arguments(teacher, undisturbed)):
        command = [sys.executable, "-m", "distillkit_cli", *given]
        subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=START_LIMIT_S)
    return teacher, undisturbed


def killed_run(number: int, seed: int, teacher: Path, undisturbed: Path) -> dict[str, Any]:
    """One run, killed and continued until it is done; what happened and whether it is bit-equal."""
    began = time.monotonic()
    out = undisturbed.parent / f"run-{number:03d}"
    random_of = random.Random(f"{seed} {number}")
    moments = drawn(random_of, start_s=START_S, steps_s=STEPS_S)
    record: dict[str, Any] = {"run": number, "kills": [], "starts": 0}
    newest = 0
    for moment in [*moments, None]:
        record["starts"] += 1
        was = left_behind(out)
        victim = _started(record["starts"], moment, teacher, out)
        waited = moment or Moment("never", after_s=START_LIMIT_S)
        killed = waited.strike(victim, out)
        if not killed:
            record["code"] = victim.code
            if victim.code != 0:
                record["said"] = victim.said()[-2000:]
            break
        record["kills"].append({"aim": waited.kind, "hit": place(out, victim.pid, was=was)} | _rounded(waited))
        try:
            newest = require_readable(out, since=newest)
        except Exception as error:  # noqa: BLE001 - any of them is the finding
            record["unreadable"] = f"{type(error).__name__}: {error}"
            break
    record["differences"] = differences(undisturbed, out) if record.get("code") == 0 else ["the run did not end"]
    record["equal"] = not record["differences"]
    record["seconds"] = round(time.monotonic() - began, 1)
    if record["equal"]:
        shutil.rmtree(out)
        out.with_suffix(".log").unlink()
    return record


def _started(start: int, moment: Moment | None, teacher: Path, out: Path) -> Victim:
    given, log = arguments(teacher, out), out.with_suffix(".log")
    if start == 1 and not (moment and moment.inside):
        return fresh(given, log)
    return forked(given, log, moment.arm(out) if moment else lambda: None)


def _rounded(moment: Moment) -> dict[str, Any]:
    return {"count": moment.count} if moment.inside else {"after_s": round(moment.after_s, 4), "count": moment.count}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of the table."""
    kills = [kill for run in runs for kill in run["kills"]]
    return {
        "runs": len(runs),
        "equal": sum(run["equal"] for run in runs),
        "unreadable": sum("unreadable" in run for run in runs),
        "kills": len(kills),
        "hits": dict(sorted(Counter(kill["hit"] for kill in kills).items())),
    }


def shared_out(runs: int, seed: int, parallel: int, folder: Path) -> list[dict[str, Any]]:
    """All runs, in `parallel` processes that import what they fork once."""
    teacher, undisturbed = prepared(folder)
    parts = [folder / f"part-{part}.json" for part in range(parallel)]
    common = [sys.executable, "-m", "tests.faults.kills", "--runs", str(runs), "--seed", str(seed)]
    places = ["--teacher", str(teacher), "--undisturbed", str(undisturbed)]
    processes = [
        subprocess.Popen([*common, *places, "--part", f"{part}/{parallel}", "--out", str(file)], env=environment())
        for part, file in enumerate(parts)
    ]
    if any([process.wait() for process in processes]):
        raise SystemExit("a part of the harness failed")
    records = [record for file in parts for record in json.loads(file.read_text(encoding="utf-8"))]
    return sorted(records, key=lambda record: record["run"])


def main() -> None:
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--undisturbed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", default="0/1", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.undisturbed:
        warm()
        part, parts = map(int, given.part.split("/"))
        records = []
        for number in range(part, given.runs, parts):
            records.append(killed_run(number, given.seed, given.teacher, given.undisturbed))
            print(f"run {number}: {_line(records[-1])}", flush=True)
        given.out.write_text(json.dumps(records), encoding="utf-8")
        return
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="distillkit-kills-"))
    runs = shared_out(given.runs, given.seed, given.parallel, folder)
    found = summary(runs)
    whole = {"machine": machine(), "seed": given.seed, "seconds": round(time.monotonic() - began), **found}
    given.out.write_text(json.dumps(whole | {"records": runs}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if found["equal"] < found["runs"]:
        raise SystemExit(f"not all runs came to the same; see {folder}")
    shutil.rmtree(folder)


def _line(record: Mapping[str, Any]) -> str:
    hits = ", ".join(kill["hit"] for kill in record["kills"])
    verdict = "equal" if record["equal"] else f"DIFFERS {record.get('unreadable') or record['differences']}"
    return f"{len(record['kills'])} kills ({hits}), {verdict}, {record['seconds']} s"


if __name__ == "__main__":
    main()
