"""Work in an interpreter of its own, so that a crash in a native library is a message and not the end of the command.

The child is a module run with `-m` that calls `serve`. It gets one JSON request on its standard input and answers with
JSON lines on its standard output: any number of events, then one result or one error. What native libraries print goes
to its standard error, which is kept.
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

from distillkit.errors import DistillkitError, UnavailableError

Event = Mapping[str, Any]
Say: TypeAlias = "Callable[[Event], None]"


class ChildError(DistillkitError):
    """The child did not answer. Its text goes on a sentence ("ended with signal SIGSEGV"); `log` is what it printed."""

    def __init__(self, how: str, log: str) -> None:
        super().__init__(how)
        self.log = log


def result_of(
    module: str, request: Event | None = None, *, timeout_s: float, on_event: Say | None = None
) -> dict[str, Any]:
    """Run `module` on `request`, hand its events on as they come, and return its result.

    Raises: UnavailableError with the child's words where it says that something cannot be done; ChildError where it
    crashed, failed or took longer than `timeout_s`.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(  # noqa: S603 - our own module, in our own interpreter
            # -P: a file in the current folder must not stand in for a library.
            [sys.executable, "-P", *(["-S"] if sys.flags.no_site else []), "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as child,
    ):
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            answer = _talk(child, dict(request or {}), on_event)
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()
        log.seek(0)
        output = log.read()
    if answer is not None and "result" in answer:
        result: dict[str, Any] = answer["result"]
        return result
    if answer is not None:
        raise UnavailableError(answer["error"])
    raise ChildError(f"took longer than {timeout_s:g} s" if late.is_set() else _ending(code, output), output)


def _talk(child: subprocess.Popen[str], request: dict[str, Any], on_event: Say | None) -> dict[str, Any] | None:
    """Hand the request over and read lines to the end; the last word, if there is one."""
    if child.stdin is None or child.stdout is None:
        return None
    try:
        with child.stdin as stream:
            stream.write(json.dumps(request))
    except BrokenPipeError:  # it ended before it listened; its exit code says how
        return None
    answer = None
    for line in child.stdout:
        try:
            message: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:  # a library that printed while it was imported
            continue
        if "result" in message or "error" in message:
            answer = message
        elif on_event is not None:
            on_event(message)
    return answer


def serve(work: Callable[[dict[str, Any], Say], Mapping[str, Any]]) -> None:
    """In the child: read the request, do the work, answer."""
    # Native libraries print to the first file descriptor; the answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    lock = threading.Lock()

    def say(event: Event) -> None:
        with lock:  # libraries call back from threads of their own
            answers.write(json.dumps(event) + "\n")
            answers.flush()

    request: dict[str, Any] = json.loads(sys.stdin.read() or "{}")
    try:
        say({"result": work(request, say)})
    except UnavailableError as error:
        say({"error": str(error)})


def last_line(text: str) -> str:
    """The last line that says something, where the point of a traceback or a log is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _ending(code: int, log: str) -> str:
    if code < 0:
        return f"ended with signal {signal.Signals(-code).name}"
    return f"failed: {last_line(log)}"
