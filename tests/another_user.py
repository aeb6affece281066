"""Run code as another user: tests often run as root, which ignores file permissions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

OTHER_USER = 65534


def as_other_user(function: Callable[[], Any]) -> str:
    """The result of `function`, or its error, as text, from a forked process with another user id."""
    if sys.platform == "win32" or os.getuid() != 0:
        pytest.skip("only root can become another user")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
            answer = str(function())
        except Exception as error:  # noqa: BLE001 - it is the answer
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer_of_child:
        answer = answer_of_child.read()
    os.waitpid(child, 0)
    return answer
