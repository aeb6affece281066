"""Run code as another user, because permissions do not bind root, as whom many machines run tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

OTHER_USER = 65534


def as_other_user(function: Callable[[], Any]) -> str:
    """What `function` returns, or its error, as text, in a forked process with another user id."""
    if sys.platform == "win32" or os.getuid() != 0:
        pytest.skip("only root can become another user")
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
            answer = str(function())
        except Exception as error:  # noqa: BLE001 - it is the answer
            answer = f"{type(error).__name__}: {error}"
        os.write(ours, answer.encode())
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs, encoding="utf-8") as answer_of_child:
        answer = answer_of_child.read()
    os.waitpid(child, 0)
    return answer
