"""Launching several processes: arguments, exit codes and restarts. The processes themselves are replaced."""

import logging
import tempfile

import pytest

from distillkit.compute.interpreters import code_command
from distillkit_cli import launching
from distillkit_cli.launching import launch, was_restarted, without_option


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [
        (["run", "--nproc", "2", "--out", "a"], ["run", "--out", "a"]),
        (["run", "--nproc=2", "--out", "a"], ["run", "--out", "a"]),
        (["run", "--out", "a", "--nproc", "2"], ["run", "--out", "a"]),
        (["run", "--nproc", "2", "--nproc=3", "--nproc", "4"], ["run"]),
        (["run", "--nprocs", "2"], ["run", "--nprocs", "2"]),
    ],
)
def test_without_option_removes_the_option_and_its_value(arguments, rest):
    assert without_option(arguments, "--nproc") == rest


@pytest.mark.parametrize(
    ("exit_codes", "expected", "restarts"),
    [
        ([0], 0, 0),
        ([2], 2, 0),
        ([-9, 0], 0, 1),
        ([-9, -11, 2], 2, 2),
        ([-9, -9, -9, -11, 0], 139, 3),
    ],
)
def test_killed_processes_are_restarted_three_times(monkeypatch, exit_codes, expected, restarts):
    """-9 is SIGKILL, -11 SIGSEGV; the shell's code for a signal is 128 more than its number."""
    launched, notes, codes = [], [], iter(exit_codes)
    monkeypatch.setattr(logging, "disable", lambda level: None)
    monkeypatch.setattr(
        launching, "_launch_once", lambda arguments, processes: launched.append((arguments, processes)) or next(codes)
    )
    assert launch(["first"], 2, restart_arguments=["again"], note=notes.append) == expected
    assert launched == [(["first"], 2)] + [(["again"], 2)] * restarts
    names = {-9: "SIGKILL", -11: "SIGSEGV"}
    assert notes == [
        f"a process was killed ({names[code]}); restarting all ({number} of 3)"
        for number, code in enumerate(exit_codes[:restarts], start=1)
    ]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([1, 2], 2),
        ([0, 3], 3),
        ([-15, -9], -9),
        ([1, -9], -9),
        ([-15, 2], 2),
        ([-11, -9], -11),
        ([-15, -15], 143),
        ([-15], 143),
        ([-15, 0], 143),
    ],
)
def test_exit_code_is_that_of_the_killed_process_or_the_largest(codes, expected):
    """-15 is left out: torch's launcher sends SIGTERM to the processes that are still running.

    If all have it, a scheduler stopped them: 143 is no reason to restart.
    """
    assert launching._exit_code(codes) == expected


@pytest.mark.parametrize(("count", "expected"), [(None, False), ("0", False), ("1", True)])
def test_was_restarted_reads_torchruns_count(monkeypatch, count, expected):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    if count is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
    assert was_restarted() is expected


def test_processes_leave_no_temporary_folder(tmp_path, monkeypatch):
    """Promise: Temporary folders are deleted, also after SIGTERM.

    Attempt: An administrator or a scheduler who ends the processes of `--nproc`.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for code, expected in (("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)):
        monkeypatch.setattr(launching, "module_command", lambda *_, code=code: code_command(code))
        assert launching._launch_once([], 2) == expected
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("torchelastic_")] == []
