"""Work in another interpreter: what it says comes back, and however it ends is a sentence."""

from __future__ import annotations

import pytest

from distillkit.errors import UnavailableError
from distillkit_export.isolated_process import ChildError, last_line, result_of

HEAD = "from distillkit_export.isolated_process import serve\nfrom distillkit.errors import UnavailableError\n"


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Run a module with this code, on a request; returns the result and the events before it."""

    def run(code, request=None, timeout_s=60.0, on_event=None):
        (tmp_path / "childish.py").write_text(HEAD + code)
        monkeypatch.syspath_prepend(tmp_path)
        heard = []
        return result_of("childish", request, timeout_s=timeout_s, on_event=on_event or heard.append), heard

    return run


def test_request_goes_in_and_events_and_result_come_out(child):
    code = "def work(request, say):\n    say({'step': 1})\n    return {'twice': 2 * request['n']}\nserve(work)"
    assert child(code, {"n": 21}) == ({"twice": 42}, [{"step": 1}])


def test_what_libraries_print_is_no_answer(child):
    code = (
        "print('loaded')\nimport os\ndef work(request, say):\n    os.write(1, b'native\\n')\n    print('more')\n"
        "    return {}\nserve(work)"
    )
    assert child(code) == ({}, [])


def test_what_cannot_be_done_is_said_in_the_words_of_the_child(child):
    with pytest.raises(UnavailableError, match=r"^no way$"):
        child("def work(request, say):\n    raise UnavailableError('no way')\nserve(work)")


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("serve(lambda request, say: 1 / 0)", "failed: ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name", "failed: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended with signal SIGKILL"),
        ("raise SystemExit(3)", "failed: it said nothing"),
    ],
)
def test_however_it_ends_is_a_sentence(code, how, child):
    with pytest.raises(ChildError) as death:
        child(code)
    assert str(death.value) == how


def test_child_that_takes_too_long_is_ended_and_its_log_kept(child, monkeypatch):
    """The time is up when the child has written its log, however long it took to start."""
    code = (
        "import sys, time\nsys.stderr.write('thinking\\n')\nsys.stderr.flush()\n"
        "def work(request, say):\n    say({'step': 1})\n    time.sleep(60)\nserve(work)"
    )

    class Timer:
        def __init__(self, seconds, end):
            assert seconds == 1.5
            Timer.end = staticmethod(end)

        def start(self):
            pass

        def cancel(self):
            pass

    monkeypatch.setattr("distillkit_export.isolated_process.threading.Timer", Timer)
    with pytest.raises(ChildError) as death:
        child(code, timeout_s=1.5, on_event=lambda event: Timer.end())
    assert str(death.value) == "took longer than 1.5 s"
    assert death.value.log == "thinking\n"


def test_last_line_is_the_last_that_says_something():
    assert last_line("a\n b \n\n") == "b"
    assert last_line(" \n") == "it said nothing"
