"""Look up the installed packages in a database of known vulnerabilities (OSV, by pip-audit).

    python scripts/audit.py

Exit code 1 for a finding, or if the audit itself fails. If the service is unreachable, a message says so and the exit
code is 0, so that `make audit` also passes on a machine without a network.
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
"""Findings that do not affect distillkit: identifier and reason."""

UNREACHABLE = re.compile(
    r"Connection(?:Error|Reset|Aborted)|ConnectTimeout|ReadTimeout|[Tt]imed out|[Cc]ould not connect|ProxyError"
    r"|SSLError|ChunkedEncodingError|RetryError|\b(?:429 Client|5\d\d Server) Error"
)


def verdict(output: str, errors: str) -> tuple[int, list[str]]:
    """The exit code and the messages for pip-audit's output."""
    try:
        dependencies: Sequence[Mapping[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (errors.strip().splitlines() or ["no output"])[-1]
        if UNREACHABLE.search(errors):
            return 0, [f"audit: nothing was looked up, the vulnerability service is unreachable: {last[:200]}"]
        return 1, [f"audit: pip-audit failed: {last}"]
    known = [
        f"{each['name']} {each['version']}: {found['id']}, {_remedy(found['fix_versions'])}"
        for each in dependencies
        for found in each.get("vulns", ())
        if not ACCEPTED.keys() & {found["id"], *found.get("aliases", ())}
    ]
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    summary = f"audit: {len(dependencies) - len(unknown)} packages looked up, {len(known)} known vulnerabilities"
    messages = [summary, *known]
    if unknown:
        messages.append(f"audit: not looked up: {', '.join(unknown)}")
    return int(bool(known)), messages


def _remedy(versions: Sequence[str]) -> str:
    return f"fixed in {' and '.join(versions)}" if versions else "not fixed yet"


def main() -> int:
    """Run pip-audit and print the result."""
    done = subprocess.run([sys.executable, "-m", *AUDIT, *QUIETLY], capture_output=True, text=True, check=False)
    code, messages = verdict(done.stdout, done.stderr)
    print("\n".join(messages))
    return code


if __name__ == "__main__":
    sys.exit(main())
