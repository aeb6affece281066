"""Fixtures for the tests of the conformance suite."""

import sys
from pathlib import Path

import pytest

from distillkit import BrokenPluginError
from distillkit.testing import PAIRS, check_loss, check_student

sys.path.insert(0, str(Path(__file__).parent / "samples"))


@pytest.fixture
def findings():
    """`findings(BadLoss)`: the findings about a bad loss, without the headline, which is checked here."""

    def check(loss, options=None, *, backend=None):
        with pytest.raises(BrokenPluginError) as refusal:
            check_loss(loss, options, pairs=PAIRS[:1], backend=backend)
        return finding_lines(refusal.value, f"loss {loss.__module__}.{loss.__qualname__}")

    return check


@pytest.fixture
def student_findings():
    """`student_findings(BadModel)`: the same for a student."""

    def check(student, *, backend=None):
        with pytest.raises(BrokenPluginError) as refusal:
            check_student(student, backend=backend)
        return finding_lines(refusal.value, f"student {student.__module__}.{student.__qualname__}")

    return check


def finding_lines(error, subject):
    headline, *lines = str(error).splitlines()
    ways = "one way" if len(lines) == 1 else f"{len(lines)} ways"
    assert headline == f"{subject} breaks the contract in {ways}:"
    assert all(line.startswith("  - ") for line in lines)
    return [line.removeprefix("  - ") for line in lines]
