"""Start Python programs as forks of an interpreter that has already imported torch and has computed nothing.

`run` and `start` take the command line of `python` without `python`: `-m MODULE`, `-c CODE` or a file, and arguments.
The program is a separate process with its own environment, directory, streams and exit code. The ranks that torch's
launcher starts in it are forks, too, and so are the arms of a sweep. Importing torch, timm and scikit-learn costs 5 CPU
seconds; a fork costs 0.05.

Not for tests of imports or of start methods, nor for tests that find a process by its command line in /proc: they need
a new interpreter.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import logging
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, TimeoutExpired
from types import ModuleType
from typing import Any, TextIO

MODULES = (
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
    "torch.distributed.launcher.api",
    "distillkit_cli.main",
    "distillkit.evaluation.evaluate",
    "distillkit.running.start",
    "distillkit_plugins.students.deit",
    "distillkit_plugins.trackers.report",
)
THREADS, COLOURS = "OMP_NUM_THREADS", {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"}


def run(
    arguments: Sequence[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    timeout: float | None = None,
) -> CompletedProcess[str]:
    """Run a program to its end and capture its output as text, as `subprocess.run` does."""
    process = start(arguments, cwd=cwd, env=env)
    out, err = process.communicate(timeout)
    done = CompletedProcess(process.args, process.wait(), out, err)
    if check:
        done.check_returncode()
    return done


def start(
    arguments: Sequence[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: int = PIPE,
    start_new_session: bool = False,
) -> Process:
    """Start a program with pipes for stdout and stderr, as `subprocess.Popen` does. `stderr` is PIPE or STDOUT."""
    environment = dict(os.environ if env is None else env)
    # OpenMP reads it when torch is imported, so a fork cannot change it.
    assert environment.setdefault(THREADS, "1") == "1", "a forked program has one thread"
    request = {
        "arguments": [str(argument) for argument in arguments],
        "cwd": str(cwd or Path.cwd()),
        "environment": environment,
        "start_new_session": start_new_session,
    }
    return _interpreter().start(request, stderr)


class Process:
    """A started program, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], status: int, stdout: TextIO, stderr: TextIO | None) -> None:
        self.args = arguments
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._status = os.fdopen(status, encoding="ascii")
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._wait(timeout)
        if code is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        """Read the rest of both streams and wait for the program. Kills it after `timeout` seconds: TimeoutExpired."""
        read: dict[str, str] = {}
        readers = [
            threading.Thread(target=lambda name=name: read.update({name: getattr(self, name).read()}), daemon=True)
            for name in ("stdout", "stderr")
            if getattr(self, name)
        ]
        for reader in readers:
            reader.start()
        end = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
            if reader.is_alive():
                self.kill()
                raise TimeoutExpired(self.args, timeout or 0)
        self.wait(None if end is None else max(1.0, end - time.monotonic()))
        return read["stdout"], read.get("stderr")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.read())
            self._status.close()
        return self.returncode


class _Interpreter:
    """The interpreter that has imported `MODULES` and forks the programs."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                # typer reads these when it is imported.
                env={name: value for name, value in os.environ.items() if name not in COLOURS} | {THREADS: "1"},
                pass_fds=[theirs.fileno()],
                stdin=DEVNULL,
                stdout=DEVNULL,
            )

    def start(self, request: Mapping[str, Any], stderr: int) -> Process:
        status, their_status = os.pipe()
        out, their_out = os.pipe()
        err, their_err = (None, their_out) if stderr == STDOUT else os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        theirs = [nothing, their_out, their_err, their_status]
        content = json.dumps(request).encode()
        socket.send_fds(self._control, [len(content).to_bytes(4, "big")], theirs)
        self._control.sendall(content)
        for descriptor in set(theirs):
            os.close(descriptor)
        streams = [descriptor and os.fdopen(descriptor, encoding="utf-8") for descriptor in (out, err)]
        return Process(request["arguments"], status, *streams)

    def close(self) -> None:
        self._control.close()
        self._process.wait()


_INTERPRETERS: list[_Interpreter] = []


def _interpreter() -> _Interpreter:
    """The interpreter for all tests of this process, started at the first use."""
    if not _INTERPRETERS:
        _INTERPRETERS.append(_Interpreter())
    return _INTERPRETERS[0]


def close() -> None:
    """End the interpreter, if one was started."""
    while _INTERPRETERS:
        _INTERPRETERS.pop().close()


# The code below runs in that interpreter and in its forks.


_PACKAGES: set[str] = set()
"""Top-level packages that the interpreter has imported, and those of the standard library."""


class _Rank:
    """A rank forked from torch's launcher, or an arm from a sweep, with what they use of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: TextIO | None = None) -> None:
        self.returncode: int | None = None
        self.args = arguments
        for stream in (sys.__stdout__, sys.__stderr__):
            stream.flush()
        with warnings.catch_warnings():
            # Python 3.12 and newer warn because the launcher has threads. These wait for its store and its logs, and
            # hold no lock that a rank uses.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            for number in (1, 2) if log else ():
                os.dup2(log.fileno(), number)
            _end(_code_of(lambda: _as_rank(arguments, environment)))

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.01)
        return self.returncode or 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _popen(args: Sequence[str], env: Mapping[str, str], **more: Any) -> Any:
    known = args[0] == sys.executable and more == {"stdout": None, "stderr": None, "start_new_session": True}
    return _Rank(args[1:], env) if known else subprocess.Popen(args, env=env, **more)


def _popen_arm(args: Sequence[str], env: Mapping[str, str], **more: Any) -> Any:
    """`subprocess.Popen` as `distillkit.sweeping.arm_process` calls it."""
    assert args[0] == sys.executable
    assert more["start_new_session"]
    return _Rank(args[1:], env, more["stdout"])


def _as_rank(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Reset what a new interpreter would not inherit from the launcher, and run the program."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # the descriptor of the listing itself
            if descriptor > 2 and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.close(descriptor)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    logging.disable(logging.NOTSET)
    atexit._clear()
    atexit.register(multiprocessing.util._exit_function)
    for name in list(sys.modules):
        if name.partition(".")[0] not in _PACKAGES:  # a plugin may read its rank when it is imported
            del sys.modules[name]
    _run_program(arguments, environment)


def _code_of(call: Any) -> int:
    """Call `call` and return the exit code that an interpreter would end with."""
    try:
        call()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - this process must end here after any error
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """Exit as an interpreter does, without returning to the code that forked."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _run_program(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the program of `python <arguments>` in this process."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, path), *(entry for entry in sys.path if entry not in before)]
    importlib.invalidate_caches()
    first, *rest = arguments
    is_safe = False
    while first in {"-u", "-P"}:
        if first == "-u":
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
        is_safe |= first == "-P"
        first, *rest = rest
    handler = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
    importlib.import_module(handler).Popen = _popen
    importlib.import_module("distillkit.sweeping.arm_process").Popen = _popen_arm
    if first == "-m":
        sys.path[:0] = [] if is_safe else [str(Path.cwd())]
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)  # noqa: S102
    else:
        sys.path.insert(0, str(Path(first).parent))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _serve(control: socket.socket) -> None:
    """Fork twice per request: the program, and its parent, which reports the process id and the exit code."""
    for name in MODULES:
        importlib.import_module(name)
    _PACKAGES.update(name.partition(".")[0] for name in (*sys.modules, *sys.stdlib_module_names))
    gc.collect()
    gc.freeze()
    while True:
        size, descriptors, _, _ = socket.recv_fds(control, 4, 4)
        if not size:
            break
        content = control.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        if not os.fork():
            control.close()
            _start_program(json.loads(content), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        while _reaped(os.WNOHANG):
            pass
    while _reaped(0):
        pass


def _start_program(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    *streams, status = descriptors
    pid = os.fork()
    if not pid:
        os.close(status)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        if request["start_new_session"]:
            os.setsid()
        os.chdir(request["cwd"])
        _end(_code_of(lambda: _run_program(request["arguments"], request["environment"])))
    for stream in streams:
        os.close(stream)
    os.write(status, f"{pid}\n".encode())
    os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _reaped(options: int) -> bool:
    try:
        return os.waitpid(-1, options)[0] != 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # torch's bindings complain about objects that are not collected
