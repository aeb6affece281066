"""Look up the installed packages in a database of known vulnerabilities (OSV, by pip-audit).

    python scripts/audit.py

Exit code 1 for a finding, or for an audit that failed by itself. Where the service is out of reach it says so in one
line and ends with 0: a machine without a network can build and test all the same.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

AUDIT = ("pip_audit", "--local", "--skip-editable", "--vulnerability-service", "osv", "--format", "json")
QUIETLY = ("--progress-spinner", "off", "--timeout", "10")
ACCEPTED: Mapping[str, str] = {}
"""Findings that do not concern us, by their identifier, each with the reason."""

OUT_OF_REACH = re.compile(
    r"Connection(?:Error|Reset|Aborted)|ConnectTimeout|ReadTimeout|[Tt]imed out|[Cc]ould not connect|ProxyError"
    r"|SSLError|ChunkedEncodingError|RetryError|\b(?:429 Client|5\d\d Server) Error"
)


def verdict(output: str, errors: str) -> tuple[int, list[str]]:
    """The exit code and what to say of pip-audit's answer."""
    try:
        dependencies: Sequence[Mapping[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (errors.strip().splitlines() or ["no answer"])[-1]
        if OUT_OF_REACH.search(errors):
            return 0, [f"audit: nothing was looked up, the vulnerability service is out of reach: {last[:200]}"]
        return 1, [f"audit: pip-audit failed: {last}"]
    known = [
        f"{each['name']} {each['version']}: {found['id']}, {_remedy(found['fix_versions'])}"
        for each in dependencies
        for found in each.get("vulns", ())
        if not ACCEPTED.keys() & {found["id"], *found.get("aliases", ())}
    ]
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    says = [f"audit: {len(dependencies) - len(unknown)} packages looked up, {len(known)} known vulnerabilities", *known]
    if unknown:
        says.append(f"audit: not looked up: {', '.join(unknown)}")
    return int(bool(known)), says


def _remedy(versions: Sequence[str]) -> str:
    return f"fixed in {' and '.join(versions)}" if versions else "not fixed yet"


def main() -> int:
    """Ask, and print the answer."""
    done = subprocess.run([sys.executable, "-m", *AUDIT, *QUIETLY], capture_output=True, text=True, check=False)
    code, says = verdict(done.stdout, done.stderr)
    print("\n".join(says))
    return code


if __name__ == "__main__":
    sys.exit(main())
