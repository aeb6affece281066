"""Shared fixtures: small real images, a small recipe, and finished runs to use as teachers.

Also makes hypothesis deterministic, and skips tests that need a GPU on a machine without one.
"""

from __future__ import annotations

import copy
import functools
import importlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from distillkit.contracts.plugin import PluginSpec
from distillkit.plugin.discovery import Discovered, PluginManager
from distillkit.plugin.plugin import Owner, Plugin, PluginRole
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.stop_signals import SIGNALS

# Deterministic: two test runs of one commit must agree. No deadline: a test must not fail because the machine is busy.
hypothesis.settings.register_profile("distillkit", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("distillkit")

BASE: dict[str, Any] = {
    "data": {"train": "digits", "workers": 0},
    "augment": {"crop": "padded", "padding": 1, "flip": 0.5, "erasing": 0.5},
    "mixing": {"mixup": 0.8, "cutmix": 1.0},
    "labels": {"smoothing": 0.1},
    "student": {
        "model": "deit-ti",
        "image_size": 8,
        "patch": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "drop_path": 0.3,
    },
    "training": {"steps": 24, "batch_size": 64, "log_every": 5, "device": "cpu", "precision": "fp32"},
    "schedule": {"warmup_epochs": 0.2},
    # Drawing the report's pictures costs as much as ten steps; tests that read it ask for it.
    "trackers": ["metrics"],
}


@pytest.fixture(autouse=True)
def _signal_handlers():
    """Restore the handlers of stop signals: torch's launcher leaves its own, which a run would not replace."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def pytest_sessionfinish():
    if "tests.forked" in sys.modules:
        sys.modules["tests.forked"].close()


def pytest_collection_modifyitems(items):
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needing_gpu:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in needing_gpu:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def plugins():
    return installed_plugins()


@pytest.fixture
def shared_folder():
    """A folder that other users can enter, unlike `tmp_path`."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class GivenPlugin(Plugin):
    """A plugin defined in a test: its factory is an object instead of a name to import."""

    factory: Any = None

    def load(self) -> Any:
        return self.factory


@pytest.fixture(scope="session")
def registry_of() -> Callable[..., PluginRegistry]:
    """Make a registry of plugins of a test and those in `others`: `registry_of("runtime", {"mine": Mine})`."""

    def make(role: PluginRole, factories: dict[str, Any], others: PluginRegistry | None = None) -> PluginRegistry:
        owner = Owner("tests", "1.0", "tests")
        given = tuple(
            GivenPlugin(PluginSpec(name, "of a test", "tests:None"), role, owner, factory=factory)
            for name, factory in factories.items()
        )
        existing = () if others is None else others._discovered.plugins
        return PluginRegistry(Discovered(PluginManager(), (*existing, *given), (), ()))

    return make


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits

    shades, labels = load_digits(return_X_y=True)
    return np.rint(shades * 255 / 16).astype(np.uint8).reshape(-1, 8, 8), labels


@pytest.fixture(scope="session")
def write_pictures(digits):
    """Write digits as PNG files: `write_pictures(folder, {"cat": 3, "": 2})` puts 3 in cat/ and 2 in the folder."""
    pixels, _ = digits

    def write(folder, counts, start=0):
        number = start
        for name, count in counts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                Image.fromarray(pixels[number]).save(folder / name / f"{number:04d}.png")
                number += 1
        return folder

    return write


@pytest.fixture
def recipe_of() -> Any:
    """Make a recipe from BASE with tables updated: `recipe_of({"training": {"steps": 3}}, ...)`."""

    def make(*changes: dict[str, Any]) -> Recipe:
        data = copy.deepcopy(BASE)
        for change in changes:
            for table, values in change.items():
                if isinstance(values, dict):
                    data.setdefault(table, {}).update(values)
                else:
                    data[table] = values
        return Recipe.model_validate(data)

    return make


@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of a small CNN trained for a few steps on digits, as a teacher of low accuracy."""
    from distillkit.running.start import run

    data = copy.deepcopy(BASE) | {"student": {"model": "small-cnn", "width": 8, "image_size": 8}}
    data["augment"] = {"crop": "none", "flip": 0.0}
    data["mixing"] = {}
    out = tmp_path_factory.mktemp("teacher") / "run"
    run(Recipe.model_validate(data), out, installed_plugins())
    return f"run:{out}"


@pytest.fixture(scope="session")
def attentive_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of a ViT trained for a few steps on digits: a teacher with attention, wider than its student."""
    from distillkit.running.start import run

    data = copy.deepcopy(BASE) | {"student": BASE["student"] | {"model": "vit-ti", "width": 24}}
    data["training"] = BASE["training"] | {"steps": 4}
    out = tmp_path_factory.mktemp("attentive") / "run"
    run(Recipe.model_validate(data), out, installed_plugins())
    return f"run:{out}"


@pytest.fixture(scope="session")
def onnx_functions_parsed_once():
    """Let all exports share the list of onnxscript's functions, which torch parses from their source for each one.

    That is a fifth of an export of a small student, and the list is only read.
    """
    from torch.onnx._internal import _lazy_import

    apis = _lazy_import.onnxscript_apis
    apis.get_torchlib_ops = functools.cache(lambda: importlib.import_module(apis._name).get_torchlib_ops())
    yield
    del apis.get_torchlib_ops


@pytest.fixture
def computed():
    """Count the values that torch computes outside the meta device: `with computed() as values: ...; values.count`.

    A measure of the time to build a large model that does not depend on how busy the machine is.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Values(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
            self.count += sum(tensor.numel() for tensor in tensors)
            return result

    return Values


@pytest.fixture(scope="session")
def closure():
    """The installed distributions that pip would resolve for a requirement: `closure("distillkit[runtime]")`."""

    def collect(requirement, found):
        wanted = Requirement(requirement)
        if (wanted.name, *sorted(wanted.extras)) in found:
            return found
        here = distribution(wanted.name)
        found[wanted.name, *sorted(wanted.extras)] = here
        for text in here.requires or ():
            needed = Requirement(text)
            if any(needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                collect(f"{needed.name}[{','.join(needed.extras)}]", found)
        return found

    return lambda requirement: collect(requirement, {})
