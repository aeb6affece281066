"""Several processes of one command: which one speaks, and how `--nproc` starts them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any
from uuid import uuid4

PR_SET_PDEATHSIG = 1
RESTARTS = 3
"""How often the processes are started again after one of them was killed."""
GRACE_S = 60
"""How long torch's launcher waits for processes that it asked to end: a step and a checkpoint."""
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What the launcher passes on to its processes: what torch passes on, and what SLURM sends beforehand."""


def rank() -> int:
    """Which of the processes that torchrun started this one is; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def was_restarted() -> bool:
    """Whether torchrun started these processes again after one of them had ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def end_with_the_launcher() -> None:
    """Let the system ask this process to end (SIGTERM) when the one that started it has gone, killed for instance.

    Only Linux can. Otherwise the processes would go on alone, and keep the run directory from the next ones.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments without an option and its value, however it was written."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != option and not argument.startswith(f"{option}="):
            kept.append(argument)
        skip = not skip and argument == option
    return kept


def launch(arguments: Sequence[str], processes: int, *, again: Sequence[str], note: Callable[[str], None]) -> int:
    """Run `distillkit <arguments>` in so many processes, as `torchrun --standalone` does.

    A process that is killed from outside (no memory left, say) has all of them started again with the arguments
    `again`, at most `RESTARTS` times, and says so by `note`. One that ends with an error of its own ends all.
    Returns: the exit code of a process that failed, or 0.
    """
    # torch's launcher would say again what the processes have said, with the names of its own modules.
    logging.disable(logging.ERROR)
    code = _launch_once(arguments, processes)
    for attempt in range(1, RESTARTS + 1):
        if code >= 0:
            break
        note(f"a process was killed ({signal.Signals(-code).name}); all are started again ({attempt} of {RESTARTS})")
        code = _launch_once(again, processes)
    return code if code >= 0 else 128 - code


def _launch_once(arguments: Sequence[str], processes: int) -> int:
    """The exit code of the processes; that of one that was killed is minus the signal's number."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from distillkit_cli.loopback import BACKEND, stay_on_loopback

    stay_on_loopback()
    known = {field.name for field in fields(LaunchConfig)}  # earlier versions of torch have fewer
    wished: dict[str, Any] = {"shutdown_timeout": GRACE_S, "signals_to_handle": SIGNALS}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend=BACKEND,
        max_restarts=0,
        monitor_interval=0.2,
        **{name: value for name, value in wished.items() if name in known},
    )
    try:
        elastic_launch(config, sys.executable)("-m", "distillkit_cli", *arguments)
    except ChildFailedError as error:
        return _verdict([int(failure.exitcode) for failure in error.failures.values()])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _verdict(codes: Sequence[int]) -> int:
    """What the ends of several processes come to: the one that was killed, else the one that failed by itself.

    Those that torch's launcher ended afterwards have -15, and those that merely lost the others have 1.
    """
    killed = [code for code in codes if code < 0 and code != -signal.SIGTERM]
    return min(killed) if killed else max(codes)
