"""Check of the folder for the result of a measurement or a comparison (--out), before it is made."""

from __future__ import annotations

from pathlib import Path

from distillkit.errors import UserError
from distillkit.storage.places import reason, require_writable


def require_result_folder(out: Path, what: str) -> None:
    """Check that a folder for `what`, such as "the profile", can be made and written to; leaves nothing behind.

    Raises: UserError if not.
    """
    try:
        require_writable(out)
    except FileExistsError:
        raise UserError(f"--out {out} is a file; give a folder for {what}") from None
    except OSError as error:
        raise UserError(
            f"{what} cannot be written to '{out}' ({reason(out, error)}); give another folder with --out"
        ) from None
