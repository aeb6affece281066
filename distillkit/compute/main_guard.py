"""Check that a script has the `if __name__ == "__main__":` guard that spawned loader processes need.

With the start methods "spawn" and "forkserver", every new process first imports the script. Without the guard, each of
them would run the script again.
"""

from __future__ import annotations

import multiprocessing
from functools import cache
from multiprocessing import spawn

from distillkit.compute.interpreters import safe_path
from distillkit.errors import UserError

SENTENCE = (
    "every loader process imports this script and would run it again; put its code below `if __name__ == "
    '"__main__":`, or set data.workers=0'
)
PROBE = "distillkit-main-guard"
"""Name of the process that tests whether the script can be imported."""


def refuse_while_importing() -> None:
    """Raise an error in a loader process that is still importing the script of its parent.

    Raises: UserError; SystemExit in the probe process of `require_guard`, which then raises the UserError itself.
    """
    process = multiprocessing.current_process()
    # multiprocessing checks the same flag before it refuses to start a process during the import.
    if getattr(process, "_inheriting", False):
        raise SystemExit(1) if process.name == PROBE else UserError(SENTENCE)


@cache
def require_guard() -> None:
    """Start an empty process, to test whether loader processes can import the script.

    Without this test the run would hang: the parent of a loader process that fails at import waits for its data.
    Raises: UserError if the script has no guard.
    """
    refuse_while_importing()
    if multiprocessing.get_start_method() == "fork" or not _imports_main():
        return
    probe = multiprocessing.Process(target=_nothing, name=PROBE)
    try:
        with safe_path():
            probe.start()
        probe.join()
    except (EOFError, ConnectionError):  # in some Python versions the fork server imports the script, and dies of it
        raise UserError(SENTENCE) from None
    if (probe.exitcode or 0) > 0:
        raise UserError(SENTENCE)


def _imports_main() -> bool:
    """Whether a new process imports the main module; it does not for `python -m package` or a notebook."""
    preparation = spawn.get_preparation_data(PROBE)
    name = preparation.get("init_main_from_name", "__main__")
    return "init_main_from_path" in preparation or not name.endswith("__main__")


def _nothing() -> None:
    """The target of the probe process; its import of the script is the test."""
