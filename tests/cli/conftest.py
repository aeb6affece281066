"""Run command lines in this process, as wide as a page and without colour."""

from typing import NamedTuple

import pytest

from distillkit_cli.main import command_line


class Done(NamedTuple):
    """What a command line left behind."""

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
        return Done(code, out, err)

    return run
