"""Check the subjects of the commits since the last release: at most 72 characters, one idea, no prefix.

`python scripts/commit_subjects.py [BASE]` checks BASE..HEAD. Without BASE it starts at the newest tag `v*` that HEAD
contains, and before the first release at `RULE_KEPT_SINCE`. It exits with 1 if a subject breaks the rule of
CONTRIBUTING.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 72
"""Characters: what `git log --oneline` and code review tools show without cutting it off."""
RULE_KEPT_SINCE = "2026-11-28T16:33:00+00:00"
"""Nothing checked the older subjects, and 103 of them are longer. A date also works in a shallow clone."""


def faults(subject: str) -> Iterator[str]:
    """What is wrong with a subject, in the words of the rule."""
    if len(subject) > LIMIT:
        yield f"{len(subject)} characters, at most {LIMIT}"
    if re.match(r"(fixup!|squash!|amend!|wip\b)", subject, re.IGNORECASE):
        yield "unfinished"
    elif re.match(r"[\w-]+(\([^)]*\))?!?: ", subject):
        yield "has a prefix"
    elif not subject[:1].isupper():
        yield "does not start with a capital letter"
    if ";" in subject:
        yield "joins several ideas with ';'"
    if subject.endswith("."):
        yield "ends with a full stop"


def commits(base: str | None) -> list[tuple[str, str]]:
    """(abbreviated hash, subject) of the commits to check, newest first."""
    start = base or _git("describe", "--tags", "--abbrev=0", "--match", "v*", allow_failure=True)
    selected = [f"{start}..HEAD"] if start else [f"--since={RULE_KEPT_SINCE}", "HEAD"]
    lines = _git("log", "--format=%h %s", *selected).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def _git(*arguments: str, allow_failure: bool = False) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and not allow_failure:
        raise SystemExit(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout.strip()


def main(arguments: list[str]) -> int:
    """Print every fault; 1 if there is one."""
    checked = commits(arguments[0] if arguments else None)
    found = [f"{commit} {subject}\n    {fault}" for commit, subject in checked for fault in faults(subject)]
    print("\n".join(found) if found else f"{len(checked)} commit subjects keep the rule of CONTRIBUTING.md")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
