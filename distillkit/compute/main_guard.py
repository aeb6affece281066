"""The `if __name__ == "__main__":` that a script needs where loader processes are spawned.

Under the start methods "spawn" and "forkserver" every new process imports the script first. Without the guard, that
would start the work of the script once more in each of them.
"""

from __future__ import annotations

import multiprocessing
from functools import cache
from multiprocessing import spawn

from distillkit.errors import UserError

SENTENCE = (
    "every loader process imports this script and would run it again; put what it does below `if __name__ == "
    '"__main__":`, or set data.workers=0'
)
PROBE = "distillkit-main-guard"
"""The name of the process that shows whether the script can be imported."""


def refuse_while_importing() -> None:
    """Refuse to work in a process that has only been started and is importing the script of its parent.

    Raises: UserError; SystemExit in the process of `require_guard`, which then raises the error.
    """
    process = multiprocessing.current_process()
    # What multiprocessing itself looks at before it refuses to start a process here.
    if getattr(process, "_inheriting", False):
        raise SystemExit(1) if process.name == PROBE else UserError(SENTENCE)


@cache
def require_guard() -> None:
    """Start one process that does nothing, to see whether loader processes can import the script.

    A loader process that fails there would not be noticed: its parent waits until it has read its data set.
    Raises: UserError.
    """
    refuse_while_importing()
    if multiprocessing.get_start_method() == "fork" or not _imports_main():
        return
    probe = multiprocessing.Process(target=_nothing, name=PROBE)
    try:
        probe.start()
        probe.join()
    except (EOFError, ConnectionError):  # the fork server of some Pythons imports the script
        raise UserError(SENTENCE) from None
    if (probe.exitcode or 0) > 0:
        raise UserError(SENTENCE)


def _imports_main() -> bool:
    """Whether a new process imports the main module, as it does not for `python -m package` and a notebook."""
    found = spawn.get_preparation_data(PROBE)
    return "init_main_from_path" in found or not found.get("init_main_from_name", "__main__").endswith("__main__")


def _nothing() -> None:
    """What the process does once the script is imported."""
