"""A distribution of somebody else, built and installed as pip does it, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "distillkit-margin"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder into which the wheel of distillkit-margin is installed."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", "--no-build-isolation", *offline, "--wheel-dir", wheels, SOURCE], check=True)
    (wheel,) = wheels.glob("*.whl")
    assert wheel.name == "distillkit_margin-1.2.0-py3-none-any.whl"
    subprocess.run([*pip, "install", *offline, "--target", target, wheel], check=True)
    return target


@pytest.fixture
def beside(site):
    """`beside("-c", "code")` runs Python with that folder on its path; `beside("-m", ...)` likewise."""

    def run(*arguments, **options):
        path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    return run
