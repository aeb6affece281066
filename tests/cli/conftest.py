"""Run command lines in this process, 100 columns wide and without colour."""

from typing import NamedTuple

import pytest

from distillkit_cli.main import command_line

TINY = (
    *("--set", "student.image_size=8"),
    *("--set", "student.patch=4"),
    *("--set", "student.width=16"),
    *("--set", "student.depth=1"),
    *("--set", "student.heads=2"),
    *("--set", "training.steps=2"),
    *("--set", "training.threads=1"),
    *("--set", "data.workers=0"),
    *("--set", 'trackers=["metrics"]'),
    *("--device", "cpu"),
)


class CommandResult(NamedTuple):
    """Exit code and output of a command line."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def distillkit(capsys):
    """Run `distillkit` with these arguments."""

    def run(*arguments):
        code = command_line(arguments)
        out, err = capsys.readouterr()
        return CommandResult(code, out, err)

    return run


@pytest.fixture(scope="session")
def tiny():
    """The arguments of a run of two steps on digits."""
    return TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two steps on digits."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert command_line(["--quiet", "run", *TINY, "--out", str(out)]) == 0
    return out
