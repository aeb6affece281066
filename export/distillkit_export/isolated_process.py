"""Isolated child process: a crash in a native library becomes an error message instead of ending the command.

The child is a module run with `-m` that calls `serve`. It reads one JSON request from stdin and writes JSON lines to
stdout: any number of events, then one result or one error. Output of native libraries goes to stderr, which is kept
as a log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from distillkit.compute.interpreters import environment, module_command
from distillkit.errors import DistillkitError, UnavailableError

Event = Mapping[str, Any]
SendEvent: TypeAlias = "Callable[[Event], None]"


class ChildError(DistillkitError):
    """The child process returned no result.

    The message completes a sentence ("ended with signal SIGSEGV"); `log` is the child's stderr.
    """

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.log = log


def result_of(
    module: str, request: Event | None = None, *, timeout_s: float, on_event: SendEvent | None = None
) -> dict[str, Any]:
    """Run `module` on `request` in a child process, pass its events to `on_event` and return its result.

    Raises: UnavailableError with the child's message if the child raised one; ChildError if the child crashed, failed
    or took longer than `timeout_s`.
    """
    with (
        # A file, because a full pipe would block the child while its stdout is read.
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(  # noqa: S603 - our own module, in our own interpreter
            module_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=environment(),
        ) as child,
    ):
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(timeout_s, kill)
        timer.start()
        try:
            answer = _exchange(child, dict(request or {}), on_event)
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()  # also after an error in `on_event`
        log.seek(0)
        output = log.read()
    if answer is not None and "result" in answer:
        result: dict[str, Any] = answer["result"]
        return result
    if answer is not None:
        raise UnavailableError(answer["error"])
    raise ChildError(f"took longer than {timeout_s:g} s" if timed_out.is_set() else _exit_reason(code, output), output)


def _exchange(
    child: subprocess.Popen[str], request: dict[str, Any], on_event: SendEvent | None
) -> dict[str, Any] | None:
    """Send the request and read all lines; return the last result or error, None if the child sent neither."""
    if child.stdin is None or child.stdout is None:
        return None
    try:
        with child.stdin as stream:
            stream.write(json.dumps(request))
    except BrokenPipeError:  # the child ended before it read the request; its exit code has the reason
        return None
    answer = None
    for line in child.stdout:
        try:
            message: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:  # a library printed during its import, before `serve` redirected stdout
            continue
        if "result" in message or "error" in message:
            answer = message
        elif on_event is not None:
            on_event(message)
    return answer


def serve(work: Callable[[dict[str, Any], SendEvent], Mapping[str, Any]]) -> None:
    """Run in the child: read the request, call `work` and send its result."""
    # Native libraries print to file descriptor 1: messages go to a copy of it, and 1 is redirected to stderr.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:  # libraries call back from their own threads
            messages.write(json.dumps(event) + "\n")
            messages.flush()

    request: dict[str, Any] = json.loads(sys.stdin.read() or "{}")
    try:
        send({"result": work(request, send)})
    except UnavailableError as error:
        send({"error": str(error)})


def last_line(text: str) -> str:
    """The last non-empty line, which holds the message of a traceback or log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _exit_reason(code: int, log: str) -> str:
    if code < 0:
        return f"ended with signal {signal.Signals(-code).name}"
    return f"failed: {last_line(log)}"
