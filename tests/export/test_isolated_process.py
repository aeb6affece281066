"""Isolated child process: results and events are returned, and every way to end is a message."""

from __future__ import annotations

import pytest

from distillkit.errors import UnavailableError
from distillkit_export.isolated_process import ChildError, last_line, result_of

HEAD = "from distillkit_export.isolated_process import serve\nfrom distillkit.errors import UnavailableError\n"


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Run a module with this code in a child process; return its result and its events."""

    def run(code, request=None, timeout_s=60.0, on_event=None):
        (tmp_path / "child_module.py").write_text(HEAD + code)
        monkeypatch.syspath_prepend(tmp_path)
        events = []
        return result_of("child_module", request, timeout_s=timeout_s, on_event=on_event or events.append), events

    return run


def test_events_and_result_are_returned(child):
    code = "def work(request, send):\n    send({'step': 1})\n    return {'twice': 2 * request['n']}\nserve(work)"
    assert child(code, {"n": 21}) == ({"twice": 42}, [{"step": 1}])


def test_output_of_libraries_is_ignored(child):
    code = (
        "print('loaded')\nimport os\ndef work(request, send):\n    os.write(1, b'native\\n')\n    print('more')\n"
        "    return {}\nserve(work)"
    )
    assert child(code) == ({}, [])


def test_unavailable_error_of_the_child_is_raised_with_its_message(child):
    with pytest.raises(UnavailableError, match=r"^no way$"):
        child("def work(request, send):\n    raise UnavailableError('no way')\nserve(work)")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("serve(lambda request, send: 1 / 0)", "failed: ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name", "failed: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended with signal SIGKILL"),
        ("raise SystemExit(3)", "failed: no output"),
    ],
)
def test_every_way_to_fail_is_a_message(code, message, child):
    with pytest.raises(ChildError) as error:
        child(code)
    assert str(error.value) == message


def test_child_that_times_out_is_killed_and_its_log_kept(child, monkeypatch):
    """The fake timer fires after the child has written its log, independent of its start-up time."""
    code = (
        "import sys, time\nsys.stderr.write('thinking\\n')\nsys.stderr.flush()\n"
        "def work(request, send):\n    send({'step': 1})\n    time.sleep(60)\nserve(work)"
    )

    class Timer:
        def __init__(self, seconds, kill):
            assert seconds == 1.5
            Timer.kill = staticmethod(kill)

        def start(self):
            pass

        def cancel(self):
            pass

    monkeypatch.setattr("distillkit_export.isolated_process.threading.Timer", Timer)
    with pytest.raises(ChildError) as error:
        child(code, timeout_s=1.5, on_event=lambda event: Timer.kill())
    assert str(error.value) == "took longer than 1.5 s"
    assert error.value.log == "thinking\n"


def test_last_line_is_the_last_non_empty_line():
    assert last_line("a\n b \n\n") == "b"
    assert last_line(" \n") == "no output"
