"""Error messages of several processes: the cause is reported, once, and not its consequences in other processes.

The processes agree through the store of torchrun's agent, which exists before they join and outlives them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

REPORT_TIMEOUT_S = 10.0
"""How long other ranks wait for rank 0 to report, and rank 0 waits for the cause of a lost connection."""
CONNECT_TIMEOUT_S = 10.0
"""How long a process tries to connect to the store."""
CAUSE, CLAIM = "cause", "claim"
"""Keys in the store: the first cause, and how many processes have asked to report."""


class FailureReport(NamedTuple):
    """Why a process failed, and its exit code."""

    message: str
    code: int


def report_of(own: FailureReport, *, is_consequence: bool) -> FailureReport:
    """The error that this process reports, with an empty message if another process reports it.

    Rank 0 reports its own failure. If it only lost the other ranks (`is_consequence`), it reports the cause that one
    of them stored. Another rank reports only if rank 0 does not. Without a store every process reports, rank 0 first.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    # Rank 0 does not import torch just to report: that takes seconds. The other ranks wait longer than that.
    if world == 1 or (rank == 0 and "torch" not in sys.modules):
        return own
    try:
        return _agreed(_store(), own, rank, world, is_consequence=is_consequence)
    except (RuntimeError, KeyError):  # includes DistStoreError: no store, or torchrun has ended
        time.sleep(0 if rank == 0 else REPORT_TIMEOUT_S)
        return own


def reports_traceback() -> bool:
    """Whether this process may print a traceback: only the first one that asks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    try:
        return _claimed(_store())
    except (RuntimeError, KeyError):
        return True


def _agreed(store: Store, own: FailureReport, rank: int, world: int, *, is_consequence: bool) -> FailureReport:
    if not is_consequence:
        message = f"process {rank} of {world}: {own.message}" if rank else own.message
        # Only the first cause is kept; what other processes fail with later may be its consequence.
        store.compare_set(CAUSE, "", json.dumps([message, own.code]))
    if rank:
        _wait(lambda: store.check([CLAIM]))
    elif is_consequence:
        _wait(lambda: store.check([CAUSE]) or store.check([CLAIM]))
    reports = _claimed(store)
    cause = _cause(store) if rank or is_consequence else None
    report = cause or own
    return report if reports else FailureReport("", report.code)


def _cause(store: Store) -> FailureReport | None:
    """The stored cause; None if there is none of ours: other users of the machine can write to the store."""
    if not store.check([CAUSE]):
        return None
    try:
        match json.loads(store.get(CAUSE)):
            case [str(message), int(code)] if 0 < code < 256:
                return FailureReport(message, code)
    except (ValueError, RecursionError):
        pass
    return None


def _store() -> Store:
    """The store of torchrun's agent. Raises: RuntimeError if it has no store."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not export them

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise RuntimeError("torchrun has no agent store")
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=CONNECT_TIMEOUT_S), wait_for_workers=False)
    # Every restart has its own keys, so that a report from an earlier attempt does not silence it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return cast("Store", PrefixStore(f"distillkit/failure-report/{attempt}", store))


def _claimed(store: Store) -> bool:
    """Whether this process is the first to claim the report."""
    return store.add(CLAIM, 1) == 1


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + REPORT_TIMEOUT_S
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
