"""Real worker processes: measurements, crashes, timeouts, and exit with the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import onnx
import psutil
import pytest

from distillkit_export.profiling import worker_process
from distillkit_export.profiling.worker import peak_rss_bytes
from distillkit_export.profiling.worker_process import ConfigurationFailedError, WorkerProcess


@pytest.fixture
def file(tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["images", "images"], ["squares"])],
        "square",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.helper.make_tensor_value_info("squares", onnx.TensorProto.FLOAT, ["batch", 2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, tmp_path / "square.onnx")
    return tmp_path / "square.onnx"


@pytest.fixture
def worker():
    started = WorkerProcess()
    yield started
    started.close()


def opened(worker, file, **setting):
    servable = {"format": "onnx", "source": str(file), "precision": "fp32", "weights": None}
    return worker.ask("open", within_s=60, runtime="onnxruntime-cpu", servable=servable, setting=setting)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid, within_s=10.0):
    end = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


def test_worker_loads_warms_up_and_measures_in_both_modes(worker, file):
    answer = opened(worker, file, threads=1)
    assert answer["load_s"] > 0
    assert answer["facts"]["provider"] == "CPUExecutionProvider"
    for mode in ("compute", "e2e"):
        prepared = worker.ask("prepare", within_s=60, shape=[4, 2], dtype="float32", mode=mode, max_s=0.3)
        assert prepared["first_ms"] > 0
        found = worker.ask("round", within_s=60, mode=mode, seconds=0.05, min_queries=3)
        assert len(found["milliseconds"]) >= 3
        assert found["wall_s"] >= 0.05
    memory = worker.ask("memory", within_s=60)
    assert memory["peak_rss_bytes"] > 10 * 2**20
    assert memory["device_bytes"] is None


def test_error_is_reported_and_the_worker_stays_alive(worker, file, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(ConfigurationFailedError, match=r"^ONNX Runtime cannot load broken\.onnx: [^\n]+$") as refusal:
        opened(worker, tmp_path / "broken.onnx")
    assert not refusal.value.has_ended
    assert opened(worker, file)["load_s"] > 0


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGSEGV, "its process was killed by SIGSEGV"),
        (signal.SIGKILL, "its process was killed by SIGKILL, probably out of memory"),
    ],
)
def test_crash_is_reported_with_the_signal(worker, file, number, sentence):
    opened(worker, file)
    os.kill(worker.pid, number)
    with pytest.raises(ConfigurationFailedError, match=f"^{sentence}") as failure:
        worker.ask("memory", within_s=60)
    assert failure.value.has_ended
    with pytest.raises(ConfigurationFailedError):
        worker.ask("memory", within_s=60)


def test_process_that_does_not_start_is_reported_with_its_last_line():
    worker = WorkerProcess("distillkit_export.profiling.nowhere")
    with pytest.raises(ConfigurationFailedError, match=r"^its process ended with exit code 1: .*No module named"):
        worker.ask("memory", within_s=60)
    worker.close()


def test_worker_that_does_not_answer_in_time_is_ended(worker, file):
    opened(worker, file)
    worker.ask("prepare", within_s=60, shape=[1, 2], dtype="float32", mode="e2e", max_s=0.1)
    with pytest.raises(ConfigurationFailedError, match=r"^no answer within 0 s$"):
        worker.ask("round", within_s=0.2, mode="e2e", seconds=30, min_queries=1)
    assert gone(worker.pid)


def test_prints_of_libraries_do_not_disturb_the_answers(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("")
    (tmp_path / "printing.py").write_text(
        "import distillkit_export.profiling.worker as worker\n"
        "def memory(self):\n"
        "    print('from Python', flush=True)\n"
        "    __import__('os').system('echo from C')\n"
        "    return {'peak_rss_bytes': 1, 'device_bytes': None}\n"
        "worker.Worker.do_memory = memory\n"
        "worker.main()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = WorkerProcess("printing")
    assert worker.ask("memory", within_s=60)["peak_rss_bytes"] == 1
    worker.close()


def test_a_process_that_a_library_left_behind_does_not_hold_up_the_end(tmp_path, monkeypatch):
    (tmp_path / "leaving.py").write_text(
        "import os, time, pathlib\n"
        "import distillkit_export.profiling.worker as worker\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(600)\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child))\n"
        "worker.main()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(worker_process, "END_S", 0.5)
    worker = WorkerProcess("leaving")
    worker.ask("memory", within_s=60)
    child = int((tmp_path / "child").read_text())
    try:
        worker.close()  # hung until the child ended
        assert gone(worker.pid)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_closed_worker_is_gone(worker, file):
    opened(worker, file)
    worker.close()
    assert gone(worker.pid)


# A shell that starts the tests in the background lets them ignore Ctrl-C; a terminal does not.
PARENT = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from distillkit_export.profiling.worker_process import WorkerProcess
worker = WorkerProcess()
servable = {"format": "onnx", "source": sys.argv[1], "precision": "fp32", "weights": None}
worker.ask("open", within_s=60, runtime="onnxruntime-cpu", servable=servable, setting={})
worker.ask("prepare", within_s=60, shape=[1, 2], dtype="float32", mode="e2e", max_s=0.1)
print(worker.pid, flush=True)
worker.ask("round", within_s=60, mode="e2e", seconds=60, min_queries=1)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(file, number):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as parent:
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(number)
        parent.wait(30)
    assert gone(pid)


def test_interrupt_is_left_to_the_parent(worker, file):
    opened(worker, file)
    os.kill(worker.pid, signal.SIGINT)
    assert worker.ask("memory", within_s=60)["peak_rss_bytes"] > 2**20
    assert is_alive(worker.pid)


def test_peak_memory_is_read_from_the_system(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  12345 kB\nVmRSS:\t 100 kB\n")
    assert peak_rss_bytes(tmp_path / "status") == 12345 * 1024
    assert peak_rss_bytes(tmp_path / "absent") > 2**20
