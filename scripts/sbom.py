"""Write a software bill of materials (CycloneDX 1.6, JSON) of the current environment, and check it.

    python scripts/sbom.py [FILE]        # build/sbom.json

It must contain distillkit and every installed package that constraints.txt pins, with that version and a licence.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CONCLUDED = {
    "asttokens": "Apache-2.0",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "nvidia-cusparselt-cu13": "LicenseRef-NVIDIA-Proprietary",
    "protobuf": "BSD-3-Clause",
    "torchvision": "BSD-3-Clause",
}
"""SPDX licences of packages whose metadata has none; taken from their repositories or free text."""


def pinned(text: str) -> dict[str, str]:
    r"""The versions in a constraints file that apply to this Python and this system, by package name.

    >>> pinned("# base\nnumpy==2.4.6  # via torch\nsix==1.17.0 ; python_version < '3'\n")
    {'numpy': '2.4.6'}
    """
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    found = [Requirement(line) for line in lines if line]
    applicable = [each for each in found if each.marker is None or each.marker.evaluate()]
    return {each.name: str(each.specifier).removeprefix("==") for each in applicable}


def faults(bill: Mapping[str, Any], pins: Mapping[str, str]) -> Iterator[str]:
    """Messages about what is wrong with a bill of materials."""
    if bill["metadata"].get("component", {}).get("name") != "distillkit":
        yield "it does not describe distillkit"
    components = {_normal(each["name"]): each for each in bill["components"]}
    for name, wanted in pins.items():
        component = components.get(_normal(name))
        if component is None:
            yield f"{name} {wanted} is missing"
        elif component.get("version") != wanted:
            yield f"{name} is {component.get('version')}; constraints.txt says {wanted}"
        elif not component.get("licenses"):
            yield f"{name} {wanted} has no licence"


def conclude(components: Sequence[dict[str, Any]]) -> None:
    """Fill in the licences that packages do not declare."""
    for component in components:
        if not component.get("licenses") and component["name"] in CONCLUDED:
            component["licenses"] = [{"acknowledgement": "concluded", "expression": CONCLUDED[component["name"]]}]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def main(out: Path) -> int:
    """Write the bill of materials and print its faults, or its size."""
    out.parent.mkdir(parents=True, exist_ok=True)
    project = ("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library")
    command = ["cyclonedx_py", "environment", sys.executable, *project, "--output-reproducible", "--of", "JSON"]
    subprocess.run([sys.executable, "-m", *command, "-o", str(out)], check=True)
    bill = json.loads(out.read_text(encoding="utf-8"))
    conclude(bill["components"])
    out.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    found = list(faults(bill, {name: pin for name, pin in pins.items() if _installed(name)}))
    print("\n".join(found) or f"{out}: {len(bill['components'])} packages, CycloneDX {bill['specVersion']}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "sbom.json"))
