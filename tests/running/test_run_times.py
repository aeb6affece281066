import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from distillkit.running.run_times import command_line, run_times, start_facts


def test_the_duration_is_the_time_since_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/distillkit", "run", "--data", "my data"])
    facts, file = start_facts(), tmp_path / "environment.json"
    assert facts["command"] == "distillkit run --data 'my data'"
    started = datetime.now(UTC) - timedelta(minutes=2)
    file.write_text(json.dumps(facts | {"started": started.isoformat()}))
    times = run_times(file)
    assert times.keys() == {"command", "started", "finished", "duration_s"}
    assert times["duration_s"] == pytest.approx(120, abs=2)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"started": 3, "command": "x"}', '{"started": "noon", "command": ""}']
)
def test_a_run_of_an_earlier_version_has_only_an_end(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    assert run_times(tmp_path / "environment.json").keys() == {"finished"}
    assert run_times(tmp_path / "missing.json").keys() == {"finished"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/a/distillkit/__main__.py", "run"], "distillkit run"),
        (["/a/distillkit_cli/__main__.py", "run"], "distillkit run"),
        (["C/distillkit.exe", "plan"], "distillkit plan"),
        (["/usr/train.py", "--fast"], "python train.py --fast"),
        (["/a/pytest/__main__.py"], "python __main__.py"),
        ([], "python ''"),
    ],
)
def test_the_command_can_be_typed_again(arguments, text):
    assert command_line(arguments) == text
