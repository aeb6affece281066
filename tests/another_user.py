"""Run code as another user: tests often run as root, which ignores file permissions."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

OTHER_USER = 65534
CAPABILITY_VERSION = 0x20080522
"""Of linux/capability.h: version 3, with sets of 64 bits."""
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
DROP_FROM_BOUNDING_SET = 24


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


def obey_permissions() -> None:
    """Let the permissions of files bind this process and those that it starts, also as root (Linux). For good."""
    if sys.platform != "linux" or os.getuid() != 0:
        return
    system = ctypes.CDLL(None, use_errno=True)
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
        system.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)  # for programs that it executes
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)  # 0: this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable: bits 0 to 31, then 32 to 63
    system.capget(header, sets)
    for place in range(3):
        sets[place] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    if system.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset failed")
