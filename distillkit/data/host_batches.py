"""Loader processes: batches made by a data set, in the order of their jobs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from distillkit.compute.interpreters import safe_path
from distillkit.compute.main_guard import require_guard
from distillkit.errors import UserError

GRACE_S = 30
"""Seconds that a loader process lives on after SIGTERM: the run may need one more batch to finish its step."""


def host_batches(dataset: Any, jobs: Iterable[Any] | None, *, workers: int, pin: bool) -> Generator[Any]:
    """The batch that `dataset` makes of each job, in order; `jobs` is None for a stream.

    Leaves the global generators unchanged. Closing the iterator ends the loader processes.
    Raises: a UserError that a loader process returned instead of a batch, or the one of `require_guard`.
    """
    if workers:
        require_guard()
    batches = DataLoader(
        dataset,
        sampler=jobs,
        batch_size=None,  # a job is a complete batch
        collate_fn=_identity,  # the default converts NumPy arrays to tensors
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # without one, DataLoader draws its seed from the global generator
        worker_init_fn=_ignore_run_signals,
    )
    with safe_path():
        loader = iter(batches)
    try:
        for batch in loader:
            # Returned, not raised: torch would put the worker's traceback into the message.
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        # A killed loader process has already raised in the loop above; torch may raise again here.
        with suppress(RuntimeError):
            getattr(loader, "_shutdown_workers", int)()
        del loader  # the last reference


def _ignore_run_signals(_worker: int) -> None:
    """Ignore Ctrl-C and SIGUSR1 in a loader process, and delay SIGTERM by `GRACE_S`.

    A terminal or a scheduler sends the signal to every process. The run handles it after its step and then ends its
    loader processes. A run that is interrupted while it receives a batch closes the connection; the ConnectionError
    that follows in the loader process is not reported.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
    usual = sys.excepthook

    def ignore_hangups(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            usual(kind, error, trace)

    sys.excepthook = ignore_hangups


def _identity(batch: Any) -> Any:
    return batch
