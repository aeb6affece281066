"""Several processes for one command: ranks, and how `--nproc` starts and restarts them."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any
from uuid import uuid4

from distillkit.compute.compiler_cache import use_private_cache
from distillkit.compute.interpreters import environment, module_command, variables
from distillkit.compute.launcher_process import end_with_launcher, end_with_parent

RESTARTS = 3
"""How often all processes are restarted after one of them was killed."""
GRACE_S = 60
"""How long torch's launcher waits for processes to end after SIGTERM: time for a step and a checkpoint."""
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that the launcher forwards: torch's own list, and SIGUSR1, which SLURM sends before a time limit."""


def rank() -> int:
    """The rank of this process under torchrun; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def is_rank() -> bool:
    """Whether torchrun or `--nproc` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def was_restarted() -> bool:
    """Whether torchrun restarted these processes after one of them ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def end_with_the_launcher() -> None:
    """Receive SIGTERM when torchrun or a sweep that started this process ends, even if it is killed. Linux only.

    Without this the process would keep running and hold the lock of the run directory.
    """
    if is_rank():
        end_with_parent()
    else:
        end_with_launcher()


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments without an option and its value, written as `--option value` or `--option=value`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != option and not argument.startswith(f"{option}="):
            kept.append(argument)
        skip = not skip and argument == option
    return kept


def launch(
    arguments: Sequence[str], processes: int, *, restart_arguments: Sequence[str], note: Callable[[str], None]
) -> int:
    """Run `distillkit <arguments>` in `processes` processes, as `torchrun --standalone` does.

    If one is killed (out of memory, for example), all are restarted with `restart_arguments`, at most `RESTARTS` times,
    and `note` reports it. If one exits with an error, all end.
    Returns: the exit code of a process that failed, or 0.
    """
    # torch's launcher would log the errors of the processes a second time, with its own module names.
    logging.disable(logging.ERROR)
    # The processes inherit it; otherwise torch leaves an empty folder next to other temporary files.
    use_private_cache()
    code = _launch_once(arguments, processes)
    for attempt in range(1, RESTARTS + 1):
        if code >= 0:
            break
        note(f"a process was killed ({signal.Signals(-code).name}); restarting all ({attempt} of {RESTARTS})")
        code = _launch_once(restart_arguments, processes)
    return code if code >= 0 else 128 - code


def _launch_once(arguments: Sequence[str], processes: int) -> int:
    """The exit code of the processes; minus the signal's number if one was killed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from distillkit_cli.loopback import BACKEND, stay_on_loopback

    stay_on_loopback()
    known = {field.name for field in fields(LaunchConfig)}  # older versions of torch have fewer
    wanted: dict[str, Any] = {"shutdown_timeout": GRACE_S, "signals_to_handle": SIGNALS}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend=BACKEND,
        max_restarts=0,  # `launch` restarts them, because torch would repeat the same arguments
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # otherwise torch leaves an empty temporary folder
        **{name: value for name, value in wanted.items() if name in known},
    )
    try:
        program, *rest = module_command("distillkit_cli", *arguments)
        with variables(PYTHONPATH=environment()["PYTHONPATH"]):
            elastic_launch(config, program)(*rest)
    except ChildFailedError as error:
        return _exit_code([int(failure.exitcode) for failure in error.failures.values()])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _exit_code(codes: Sequence[int]) -> int:
    """One exit code for several processes: that of a killed process, else the largest.

    Processes that torch's launcher terminated afterwards have -15; those that only lost the others have 1. If none
    has another code, something else stopped them, such as a scheduler: then they are not restarted.
    """
    killed = [code for code in codes if code < 0 and code != -signal.SIGTERM]
    failed = max(codes) if max(codes) > 0 else 128 + signal.SIGTERM
    return min(killed) if killed else failed
