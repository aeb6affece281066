"""Other faults, each once: signals, a full disk, damaged checkpoints, a lost loader worker or run directory.

    python -m tests.faults.others --seed 0 --out others.json

Every run is the small distillation of `kills`, disturbed at a moment drawn from the seed. It either continues and ends
bit-equal to the undisturbed run, or ends with one sentence and a documented exit code.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from distillkit.running.checkpoint import newest_checkpoint
from distillkit.running.checkpoint_folders import checkpoints
from tests.faults.equality import differences
from tests.faults.moments import NEVER, Moment, trains
from tests.faults.scene import NAMES_THE_BANK, SHORT, Scene, bank_of
from tests.faults.victim import START_LIMIT_S, Victim, forked, warm

ROOM = 20_000
"""Largest file size in bytes once the disk is full: less than the student needs."""


@dataclass
class Case:
    """One disturbed run: its directory, and the random generator of its moments."""

    scene: Scene
    out: Path
    random_of: random.Random

    @property
    def bank(self) -> Path:
        """The target bank of the run, in a scene with one."""
        return bank_of(self.out)

    def start(self, **changes: Any) -> Victim:
        return forked(self.scene.arguments(self.out, **changes), self.out.with_suffix(".log"))

    def trained(self, victim: Victim) -> Victim:
        """Wait until the run has a checkpoint of a random step, and a few random milliseconds more."""
        limit, goal = time.monotonic() + START_LIMIT_S, self.random_of.randrange(3, 16)
        while victim.poll() is None and time.monotonic() < limit:
            if self._step() >= goal and trains(self.out, victim.pid):
                break
            time.sleep(0.002)
        time.sleep(self.random_of.uniform(0, 0.03))
        return victim

    def _step(self) -> int:
        """The step of the newest checkpoint."""
        return max((int(path.name.removeprefix("step-")) for path in checkpoints(self.out / "checkpoints")), default=0)

    def saved(self, victim: Victim, count: int = 2) -> Victim:
        """Wait until the run has `count` checkpoints."""
        limit = time.monotonic() + START_LIMIT_S
        while victim.poll() is None and len(checkpoints(self.out / "checkpoints")) < count and time.monotonic() < limit:
            time.sleep(0.002)
        return victim

    def ended(self, victim: Victim) -> int:
        NEVER.strike(victim, self.out)
        assert victim.code is not None
        return victim.code

    def assert_error(self, victim: Victim, code: int, *words: str) -> str:
        """Assert the exit code and the words of the last line of output; returns that line."""
        assert self.ended(victim) == code, f"exit code {victim.code}: {victim.output()[-600:]}"
        assert "Traceback" not in victim.output(), victim.output()[-1500:]
        last = victim.output().splitlines()[-1]
        assert all(word in last for word in words), last
        return last

    def continues(self, *apart_from: str, step: int | None = None, **changes: Any) -> None:
        """Continue to the end, from `step` if given, and assert that the run equals the undisturbed one."""
        victim = self.start(**changes)
        assert self.ended(victim) == 0, victim.output()[-600:]
        assert step is None or f"from step {step}; run directory" in victim.output(), victim.output()[-600:]
        of_bank = NAMES_THE_BANK if self.scene.bank else ()
        found = differences(self.scene.undisturbed, self.out, apart_from={*apart_from, *of_bank})
        assert found == [], found

    def damages(self, damage: Callable[[list[Path]], None]) -> None:
        """Kill the run once it has two checkpoints, damage files of the newest, and continue from the one before."""
        victim = self.saved(self.start())
        victim.send(signal.SIGKILL)
        self.ended(victim)
        found, damaged = newest_checkpoint(self.out / "checkpoints")
        assert found is not None
        assert damaged == ()
        before, newest = checkpoints(self.out / "checkpoints")[-2:]
        damage(sorted(newest.iterdir()))
        self.continues(step=int(before.name.removeprefix("step-")))


def signalled(case: Case) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        victim = case.trained(case.start())
        victim.send(number)
        if case.ended(victim) == 0:  # the signal came too late
            break
        case.assert_error(victim, 128 + number, f"stopped by {number.name} after step", "--resume")
    case.continues()


def full_disk(case: Case) -> None:
    victim = case.saved(case.start(), count=1)
    resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
    case.assert_error(victim, 1, "no disk space", "free some space, then continue with --resume")
    assert newest_checkpoint(case.out / "checkpoints")[1] == ()
    case.continues()


def flipped_bit(case: Case) -> None:
    def flip(files: list[Path]) -> None:
        file = case.random_of.choice([file for file in files if file.suffix == ".safetensors"])
        content = bytearray(file.read_bytes())
        content[case.random_of.randrange(len(content))] ^= 1 << case.random_of.randrange(8)
        file.write_bytes(content)

    case.damages(flip)


def truncated_file(case: Case) -> None:
    def cut(files: list[Path]) -> None:
        file = case.random_of.choice(files)
        file.write_bytes(file.read_bytes()[: case.random_of.randrange(file.stat().st_size)])

    case.damages(cut)


def missing_file(case: Case) -> None:
    case.damages(lambda files: case.random_of.choice(files).unlink())


def lost_loader(case: Case) -> None:
    victim = case.trained(case.start(data__workers=2))
    loaders = psutil.Process(victim.pid).children()
    assert loaders, "there is no loader worker"
    case.random_of.choice(loaders).kill()
    case.assert_error(victim, 1, "a data loader worker was killed", "--resume")
    case.continues("recipe.toml", data__workers=2)


def lost_directory(case: Case) -> None:
    victim = case.trained(case.start())
    shutil.rmtree(case.out, ignore_errors=True)
    shutil.rmtree(case.out, ignore_errors=True)
    case.assert_error(victim, 1, "cannot write to the run directory any more", "restore it")
    shutil.rmtree(case.out, ignore_errors=True)
    case.continues()


def no_folder_for_checkpoints(case: Case) -> None:
    victim = case.saved(case.start(), count=1)
    moved = case.out / "checkpoints-moved"
    (case.out / "checkpoints").rename(moved)
    (case.out / "checkpoints").write_bytes(b"")
    case.assert_error(victim, 1, "cannot write to the run directory any more", "restore it")
    (case.out / "checkpoints").unlink()
    moved.rename(case.out / "checkpoints")
    case.continues()


def a_second_process(case: Case) -> None:
    first = case.start()
    while first.poll() is None and not trains(case.out, first.pid):
        time.sleep(0.005)
    second = forked(case.scene.arguments(case.out), case.out.with_suffix(".second.log"))
    case.assert_error(second, 2, f"process {first.pid} is already training in", "wait until it ends")
    assert case.ended(first) == 0, first.output()[-600:]
    case.continues()


def two_at_once(case: Case) -> None:
    both = [case.start(), forked(case.scene.arguments(case.out), case.out.with_suffix(".second.log"))]
    codes = sorted(case.ended(victim) for victim in both)
    assert codes == [0, 2], codes
    assert not any("Traceback" in victim.output() for victim in both)
    case.continues()


def killed_at_every_operation(case: Case) -> str:
    """Kill the run before the first file operation of a checkpoint, the second, and so on to the next checkpoint."""
    for count in range(1, 200):
        moment = Moment("checkpoint-operation", count=count)
        given, log = case.scene.arguments(case.out), case.out.with_suffix(".log")
        if not moment.strike(forked(given, log, moment.arm(case.out)), case.out):
            break
        found, damaged = newest_checkpoint(case.out / "checkpoints")
        assert damaged == (), damaged
        if found is not None and found.step > 3:
            break
    case.continues()
    return f"killed before {count - 1} operations"


def lost_bank(case: Case) -> None:
    """Training continues without the bank; the next start makes it again."""
    victim = case.trained(case.start())
    shutil.rmtree(case.bank)
    assert case.ended(victim) == 0, victim.output()[-600:]
    case.continues()


def damaged_bank(case: Case) -> str:
    """Kill the run, damage every file of the bank in another way, and continue."""
    victim = case.trained(case.start())
    victim.send(signal.SIGKILL)
    case.ended(victim)
    files = sorted(path for path in case.bank.rglob("*") if path.is_file())
    assert any(file.suffix == ".rows" for file in files), files
    for file in files:
        content = bytearray(file.read_bytes())
        how = case.random_of.choice(["flip", "cut", "delete", "noise"])
        place = case.random_of.randrange(len(content))
        if how == "delete":
            file.unlink()
            continue
        if how == "flip":
            for start in range(place % 50, len(content), 50):
                content[start] ^= 1 << case.random_of.randrange(8)
        else:
            content[place:] = b"" if how == "cut" else case.random_of.randbytes(len(content) - place)
        file.write_bytes(content)
    case.continues()
    return f"{len(files)} files"


def full_disk_of_a_bank(case: Case) -> None:
    """Rows that no longer fit are computed again after the run continues."""
    victim = case.saved(case.start(), count=1)
    resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
    case.assert_error(victim, 1, "no disk space", "free some space, then continue with --resume")
    case.continues()


CONTINUES = "the run continues and ends bit-equal to the undisturbed run"
CASES: dict[str, tuple[Callable[[Case], str | None], str, str]] = {
    "a scheduler or a user stops the run": (
        signalled,
        "SIGINT, SIGTERM and SIGUSR1, one after the other, each at a random step",
        f"the step is saved, one sentence, exit code 130, 143, 138; {CONTINUES}",
    ),
    "the disk is full": (
        full_disk,
        "no file may grow beyond 20 kB from a random moment on (RLIMIT_FSIZE)",
        f"one sentence, exit code 1, the last checkpoint intact; {CONTINUES}",
    ),
    "a bit of the newest checkpoint has flipped": (
        flipped_bit,
        "a random bit of a random safetensors file",
        f"the previous checkpoint is used; {CONTINUES}",
    ),
    "a file of the newest checkpoint is truncated": (
        truncated_file,
        "a random file, to a random length",
        f"the previous checkpoint is used; {CONTINUES}",
    ),
    "a file of the newest checkpoint is missing": (
        missing_file,
        "a random file is deleted",
        f"the previous checkpoint is used; {CONTINUES}",
    ),
    "a data loader worker is killed": (
        lost_loader,
        "SIGKILL to one of two workers at a random moment",
        f"one sentence, exit code 1, the last checkpoint intact; {CONTINUES}",
    ),
    "the run directory is deleted while it is in use": (
        lost_directory,
        "all of it, at a random moment",
        "one sentence, exit code 1; started again, the run ends bit-equal",
    ),
    "checkpoints cannot be written": (
        no_folder_for_checkpoints,
        "a file in place of their folder",
        f"one sentence, exit code 1; once restored, {CONTINUES}",
    ),
    "a second process is started in the run directory": (
        a_second_process,
        "while the first one trains",
        "one sentence, exit code 2; the first one ends bit-equal",
    ),
    "two processes are started in one run directory at once": (
        two_at_once,
        "both before the directory is there",
        "one trains and ends bit-equal, the other reports it, exit code 2",
    ),
    "the process is killed at any file operation of a checkpoint": (
        killed_at_every_operation,
        "SIGKILL before the first operation, the second, and so on until a checkpoint is complete",
        f"no damaged checkpoint after any kill; {CONTINUES}",
    ),
}
BANK_CASES: dict[str, tuple[Callable[[Case], str | None], str, str]] = {
    "the disk is full while a run fills a target bank": (
        full_disk_of_a_bank,
        "as above, with `--bank`",
        f"no row is read that was written in part; one sentence, exit code 1; {CONTINUES}",
    ),
    "the target bank is deleted while a run fills it": (
        lost_bank,
        "all of it, at a random moment",
        "the run ends bit-equal to the undisturbed run",
    ),
    "the files of a target bank are damaged": (
        damaged_bank,
        "SIGKILL at a random moment, then flipped bits, random bytes, a truncation or a deletion in every file",
        "damaged rows are computed again; the run ends bit-equal to the undisturbed run",
    ),
}


def tried(name: str, seed: int, scene: Scene) -> dict[str, Any]:
    """Run one case; the record has whether its promise held, and if not, why."""
    case, injected, promised = (CASES | BANK_CASES)[name]
    started_at = time.monotonic()
    out = scene.undisturbed.parent / case.__name__
    record: dict[str, Any] = {"fault": name, "injected": injected, "promised": promised, "held": True}
    try:
        record["detail"] = case(Case(scene, out, random.Random(f"{seed} {name}"))) or ""
    except Exception as error:  # noqa: BLE001 - any error is a finding
        record |= {"held": False, "why": f"{type(error).__name__}: {error}"}
    return record | {"seconds": round(time.monotonic() - started_at, 1)}


def main() -> None:
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of functions")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    warm()
    started_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="distillkit-faults-"))
    records = []
    for cases, has_bank in ((CASES, False), (BANK_CASES, True)):
        chosen = [name for name, (case, *_) in cases.items() if not given.only or case.__name__ in given.only]
        if not chosen:
            continue
        of_scene = folder / ("with-bank" if has_bank else "without-bank")
        of_scene.mkdir()
        scene = Scene.prepared(of_scene, forked, bank="empty" if has_bank else None, **SHORT)
        for name in chosen:
            records.append(tried(name, given.seed, scene))
            print(f"{name}: {'held' if records[-1]['held'] else records[-1]['why']}", flush=True)
    results = {"machine": machine(), "seed": given.seed, "seconds": round(time.monotonic() - started_at)}
    held = sum(record["held"] for record in records)
    results |= {"cases": len(records), "held": held, "records": records}
    given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if held < len(records):
        raise SystemExit(f"not every promise held; see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
