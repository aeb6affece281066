"""Of several processes that fail, one says why: the cause rather than its echo, and once.

The processes meet in the store of torchrun's agent, which is there before they have joined and outlives each of them.
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

PATIENCE_S = 10.0
"""How long others wait for the first process to speak, and it for a cause behind what it saw."""
CAUSE, CLAIM = "cause", "claim"


class LastWord(NamedTuple):
    """Why a process failed, and the exit code that this means."""

    sentence: str
    code: int


def last_word(mine: LastWord, *, is_echo: bool) -> LastWord:
    """What this process is to say of the failure of all: nothing, but with its code, where another one says it.

    The first process speaks where it fails, and where it merely lost the others (`is_echo`), for the one that has the
    cause; another one speaks where the first is busy. Where the processes cannot meet, everybody speaks, the first
    one first.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    # The first one need not wait for torch, which takes seconds to import: the others give it more.
    if world == 1 or (rank == 0 and "torch" not in sys.modules):
        return mine
    try:
        return _agreed(_store(), mine, rank, world, is_echo=is_echo)
    except (RuntimeError, KeyError):  # DistStoreError among them: no store, or torchrun has gone
        time.sleep(0 if rank == 0 else PATIENCE_S)
        return mine


def speaks_at_once() -> bool:
    """Whether this process may show a traceback: the first one of those that ask."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    try:
        return _claimed(_store())
    except (RuntimeError, KeyError):
        return True


def _agreed(store: Store, mine: LastWord, rank: int, world: int, *, is_echo: bool) -> LastWord:
    if not is_echo:
        sentence = f"process {rank} of {world}: {mine.sentence}" if rank else mine.sentence
        store.compare_set(CAUSE, "", json.dumps([sentence, mine.code]))
    if rank:
        _wait(lambda: store.check([CLAIM]))
    elif is_echo:
        _wait(lambda: store.check([CAUSE]) or store.check([CLAIM]))
    speaks = _claimed(store)
    if (rank or is_echo) and store.check([CAUSE]):
        sentence, code = json.loads(store.get(CAUSE))
        return LastWord(sentence if speaks else "", code)
    return mine if speaks else LastWord("", mine.code)


def _store() -> Store:
    """The store of torchrun's agent. Raises: RuntimeError where there is none."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not say so

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise RuntimeError("torchrun keeps no store")
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=PATIENCE_S), wait_for_workers=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return cast("Store", PrefixStore(f"distillkit/last-words/{attempt}", store))


def _claimed(store: Store) -> bool:
    """Whether this process is the first that wants to speak."""
    return store.add(CLAIM, 1) == 1


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
