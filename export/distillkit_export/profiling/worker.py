"""Worker process: holds one loaded model and measures it on command, one JSON line in, one out.

It exits when its standard input closes, so it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

from distillkit.contracts.runtime import Bound, InferenceSession, Runtime, Servable
from distillkit.errors import DistillkitError
from distillkit_export.profiling.stopwatch import Timed, measure, warm_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SEED = 0


class EndToEnd:
    """A session called from host to host, as a service would: the mode `e2e`."""

    def __init__(self, session: InferenceSession, images: NDArray[Any]) -> None:
        self._session, self._images = session, images

    def time(self, queries: int) -> list[float]:
        """Latency of each query in milliseconds, by the host's clock."""
        elapsed = []
        for _ in range(queries):
            start = perf_counter()
            self._session(self._images)
            elapsed.append((perf_counter() - start) * 1e3)
        return elapsed


class Worker:
    """One configuration: a loaded model and the batch to measure it on."""

    def __init__(self) -> None:
        self._session: InferenceSession | None = None
        self._timed: dict[str, Timed] = {}
        self._expected_ms: dict[str, float] = {}

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Execute a command: `open`, `prepare`, `round` or `memory`."""
        given = {key: value for key, value in command.items() if key != "do"}
        found: dict[str, Any] = getattr(self, f"do_{command['do']}")(**given)
        return found

    def do_open(self, runtime: str, servable: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
        """Load the model; the time includes the runtime's import."""
        start = perf_counter()
        from distillkit.plugin.registry import installed_plugins

        executes: Runtime = installed_plugins().find("runtime", runtime).create()
        self._session = executes.open(Servable(**servable), setting)
        return {"load_s": perf_counter() - start, "facts": dict(self._session.facts)}

    def do_prepare(self, shape: list[int], dtype: str, mode: str, max_s: float) -> dict[str, Any]:
        """Bind a batch, run it for the first time, and warm up."""
        session = self._opened()
        images = _images(tuple(shape), dtype)
        start = perf_counter()
        timed: Timed | Bound = EndToEnd(session, images) if mode == "e2e" else session.bind(images)
        timed.time(1)
        first_ms = (perf_counter() - start) * 1e3
        warmed = warm_up(timed, max_s=max_s)
        self._timed[mode], self._expected_ms[mode] = timed, warmed.last_ms
        return {"first_ms": first_ms, "facts": dict(session.facts), **asdict(warmed)}

    def do_round(self, mode: str, seconds: float, min_queries: int) -> dict[str, Any]:
        """Measure one round."""
        found = measure(self._timed[mode], seconds, min_queries, self._expected_ms[mode])
        return asdict(found)

    def do_memory(self) -> dict[str, Any]:
        """Peak memory so far of the process and, if the runtime reports it, of the device."""
        held = getattr(self._session, "device_bytes", None)
        return {"peak_rss_bytes": peak_rss_bytes(), "device_bytes": held() if held else None}

    def _opened(self) -> InferenceSession:
        if self._session is None:
            raise RuntimeError("the worker has no model yet")
        return self._session


def peak_rss_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Peak resident memory of this process so far, in bytes."""
    # getrusage only as a fallback: on Linux a process inherits the peak of its parent.
    if status.is_file():
        lines = status.read_text(encoding="utf-8").splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
        return found[0] if found else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _images(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Noise of the given shape: a dense model's latency does not depend on its input."""
    import numpy as np

    draw = np.random.default_rng(IMAGE_SEED)
    if dtype == "uint8":
        return draw.integers(0, 256, shape, dtype=np.uint8)
    return draw.standard_normal(shape, dtype=np.float32)


def _listen(lines: TextIO, commands: queue.Queue[str]) -> None:
    """Queue the commands; when the input closes, the parent is gone, so exit even in the middle of a round."""
    for line in lines:
        commands.put(line)
    os._exit(0)  # sys.exit would end only this thread


def main() -> None:
    """Execute commands until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # Redirect what libraries print to stderr, so that the parent reads only answers from stdout.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        commands: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()
        worker = Worker()
        while True:
            answers.write(json.dumps(_attempt(worker, commands.get())) + "\n")
            answers.flush()


def _attempt(worker: Worker, line: str) -> dict[str, Any]:
    try:
        return {"answer": worker.answer(json.loads(line))}
    except DistillkitError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "out of memory"}
    except Exception as error:  # noqa: BLE001 - runtimes raise anything, and each failure is a row of the profile
        return {"refused": f"{type(error).__name__}: {' '.join(str(error).split())}"}


if __name__ == "__main__":
    main()
