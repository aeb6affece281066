"""Client side of a worker process: send commands, wait for answers, end it."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from typing import IO, Any, Protocol

from distillkit.compute.interpreters import environment, module_command

MODULE = "distillkit_export.profiling.worker"
END_S = 3.0


class ConfigurationFailedError(Exception):
    """A configuration could not be measured; the message is the reason in its row.

    `has_ended` is whether its process is gone; otherwise it accepts further commands.
    """

    def __init__(self, reason: str, *, has_ended: bool = True) -> None:
        super().__init__(reason)
        self.has_ended = has_ended


class MeasuringWorker(Protocol):
    """The interface of a worker."""

    pid: int

    def ask(self, do: str, *, within_s: float, **given: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises: ConfigurationFailedError."""

    def close(self) -> None: ...


class WorkerProcess:
    """A fresh process with this interpreter's import path, which answers line by line."""

    def __init__(self, module: str = MODULE) -> None:
        # A file, because a pipe that is not read would block the worker once it is full.
        self._stderr: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            module_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(),
            text=True,
            encoding="utf-8",
        )
        self.pid = self._process.pid
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, do: str, *, within_s: float, **given: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises: ConfigurationFailedError if the worker reports an error, has died, or does not answer in time. In the
        last case it is ended.
        """
        stdin = self._process.stdin
        try:
            if stdin is None or stdin.closed:
                raise BrokenPipeError
            stdin.write(json.dumps({"do": do, **given}) + "\n")
            stdin.flush()
            line = self._answers.get(timeout=within_s)
        except OSError:
            line = None
        except queue.Empty:
            self.close()
            raise ConfigurationFailedError(f"no answer within {within_s:.0f} s") from None
        if line is None:
            raise ConfigurationFailedError(self._cause_of_death())
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise ConfigurationFailedError(answer["refused"], has_ended=False)
        found: dict[str, Any] = answer["answer"]
        return found

    def close(self) -> None:
        """End the process by closing its input; kill it if it does not exit in time."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_S)
        # A process that a library started in the worker may live on and hold the pipe; closing would wait for its end.
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
        self._stderr.close()

    def _read(self) -> None:
        if self._process.stdout is not None:
            with suppress(ValueError):  # closed while being read
                for line in self._process.stdout:
                    self._answers.put(line)
        self._answers.put(None)

    def _cause_of_death(self) -> str:
        """The exit code or signal, and the last line of stderr."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "its process closed its output"
        last = self._last_line()
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", probably out of memory" if name == "SIGKILL" else ""
            return f"its process was killed by {name}{memory}{last}"
        return f"its process ended with exit code {code}{last}"

    def _last_line(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return f": {lines[-1]}" if lines else ""
