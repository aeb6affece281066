"""Vulnerability audit and software bill of materials: their output and exit codes."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def report(*dependencies):
    """The output of `pip-audit --format json`."""
    return json.dumps({"dependencies": dependencies, "fixes": []})


OLD = {
    "name": "pillow",
    "version": "9.0.0",
    "vulns": [
        {"id": "PYSEC-2022-42979", "fix_versions": ["9.2.0"], "aliases": ["CVE-2022-45198"], "description": "bomb"},
        {"id": "GHSA-x", "fix_versions": [], "aliases": [], "description": "open"},
    ],
}
FINE = {"name": "numpy", "version": "2.4.6", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found"}


def test_a_vulnerability_fails_with_its_fix(monkeypatch):
    audit = script("audit")
    assert audit.verdict(report(OLD, FINE, SKIPPED), "") == (
        1,
        [
            "audit: 2 packages looked up, 2 known vulnerabilities",
            "pillow 9.0.0: PYSEC-2022-42979, fixed in 9.2.0",
            "pillow 9.0.0: GHSA-x, not fixed yet",
            "audit: not looked up: own",
        ],
    )
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-2022-45198": "no zip is read", "GHSA-x": "not ours"})
    assert audit.verdict(report(OLD, FINE), "") == (0, ["audit: 2 packages looked up, 0 known vulnerabilities"])


def test_without_a_network_the_audit_passes_with_a_note():
    trace = "Traceback ...\nrequests.exceptions.ConnectionError: HTTPSConnectionPool: Name or service not known\n"
    code, (note,) = script("audit").verdict("", trace)
    assert code == 0
    assert note == (
        "audit: nothing was looked up, the vulnerability service is unreachable: "
        "requests.exceptions.ConnectionError: HTTPSConnectionPool: Name or service not known"
    )


@pytest.mark.parametrize(
    "failure",
    [
        "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: x",
        "requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url: x",
        "requests.exceptions.ReadTimeout: Read timed out. (read timeout=10)",
        "TimeoutError: The read operation timed out",
        "requests.exceptions.ChunkedEncodingError: Connection broken",
    ],
)
def test_a_failing_service_counts_as_unreachable(failure):
    note = f"audit: nothing was looked up, the vulnerability service is unreachable: {failure}"
    assert script("audit").verdict("", f"Traceback ...\n{failure}\n") == (0, [note])


def test_any_other_failure_of_pip_audit_fails():
    assert script("audit").verdict("", "no such option\n") == (1, ["audit: pip-audit failed: no such option"])
    assert script("audit").verdict("[]", "") == (1, ["audit: pip-audit failed: no output"])
    assert script("audit").verdict("", "") == (1, ["audit: pip-audit failed: no output"])


def test_an_incomplete_bill_of_materials_is_refused():
    bill = {
        "metadata": {"component": {"name": "distillkit"}},
        "components": [
            {"name": "Rich", "version": "15.0.0", "licenses": [{"license": {"id": "MIT"}}]},
            {"name": "numpy", "version": "1.0", "licenses": [{}]},
            {"name": "timm", "version": "1.0.31", "licenses": []},
        ],
    }
    pins = {"rich": "15.0.0", "numpy": "2.4.6", "timm": "1.0.31", "typer": "0.29.2"}
    assert list(script("sbom").faults(bill, pins)) == [
        "numpy is 1.0; constraints.txt says 2.4.6",
        "timm 1.0.31 has no licence",
        "typer 0.29.2 is missing",
    ]
    assert list(script("sbom").faults({"metadata": {}, "components": []}, {})) == ["it does not describe distillkit"]
