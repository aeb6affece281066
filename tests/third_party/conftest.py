"""Third-party distributions, built and installed with pip, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

SOURCES = {
    Path(__file__).parent / "distillkit-margin": "distillkit_margin-1.2.0-py3-none-any.whl",
    Path(__file__).parent / "distillkit-pt2": "distillkit_pt2-0.3.0-py3-none-any.whl",
}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder where the wheels of the third-party distributions are installed."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", "--no-build-isolation", *offline, "--wheel-dir", wheels, *SOURCES], check=True)
    built = sorted(wheels.glob("*.whl"))
    assert [wheel.name for wheel in built] == list(SOURCES.values())
    subprocess.run([*pip, "install", *offline, "--target", target, *built], check=True)
    return target


@pytest.fixture
def python(site):
    """Run Python with the third-party distributions on its path: `python("-c", "code")`, `python("-m", ...)`.

    With `fresh=True` in a new interpreter, which has imported nothing.
    """

    def run(*arguments, fresh=False, **options):
        path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
        environment = {**os.environ, "PYTHONPATH": path}
        if fresh:
            command = [sys.executable, *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
        return forked.run(arguments, env=environment, **options)

    return run
