"""SIGTERM and SIGHUP end a command after its temporary files are deleted."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from distillkit.compute.termination import Terminated, raise_terminated, raising_terminated
from distillkit.running.stop_signals import StopRequest


@pytest.fixture(autouse=True)
def _defaults():
    """The default handlers, also under nohup, which ignores SIGHUP, and after torch's launcher, which keeps its own."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request):
    return request.param


def test_a_temporary_folder_is_deleted_after_a_signal(number, tmp_path):
    with raising_terminated() as received, tempfile.TemporaryDirectory(dir=tmp_path), pytest.raises(Terminated):
        signal.raise_signal(number)
    assert received == [number]
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == signal.SIG_DFL


def test_handlers_of_other_code_stay_in_place():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raising_terminated():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_still_finishes_its_step():
    with raising_terminated(), StopRequest().listening() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received == signal.SIGTERM


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_processes_have_the_default():
    with raising_terminated():
        assert signal.getsignal(signal.SIGTERM) is raise_terminated
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_changed_in_another_thread():
    seen = []

    def look():
        with raising_terminated():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_a_command_that_is_terminated_leaves_no_temporary_folder(number, tmp_path, monkeypatch):
    """Promise: temporary folders are deleted, also after SIGTERM.

    Attempt: an administrator or a scheduler who ends a command on a shared machine.
    """
    from distillkit_cli import main
    from distillkit_export.doctor import diagnosis

    def work(*_):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            (Path(folder) / "model.onnx").write_bytes(b"secret")
            os.kill(os.getpid(), number)
            signal.pause()

    monkeypatch.setattr("distillkit_cli.doctor.diagnose", work, raising=False)
    monkeypatch.setattr(diagnosis, "diagnose", work)
    assert main.command_line(["doctor"]) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_rank_keeps_the_default(monkeypatch, capsys):
    from distillkit_cli import main

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(main, "end_with_the_launcher", lambda: None)
    seen = []
    monkeypatch.setattr(main, "app", lambda *_, **__: seen.append(signal.getsignal(signal.SIGTERM)))
    assert main.command_line([]) == 0
    assert seen == [signal.SIG_DFL]
