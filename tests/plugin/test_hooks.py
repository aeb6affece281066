"""Life-cycle hooks are called on the observers of a run, and an observer that fails is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distillkit.contracts.run import RunInfo, RunModels
from distillkit.errors import BrokenPluginError
from distillkit.plugin.discovery import PluginRole
from distillkit.plugin.registry import installed_plugins

RUN = RunInfo(Path("run"), {}, {}, steps=4, steps_per_epoch=2)
MODELS: Any = RunModels(student=None, teachers={"dino": None}, samples=None)  # type: ignore[arg-type, dict-item]


class CallLog:
    """An observer that records the calls of its hooks."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def distillkit_run_started(self, run: RunInfo) -> None:
        self.calls.append(("started", run.steps))

    def distillkit_steps_logged(self, record: Mapping[str, float]) -> None:
        self.calls.append(("steps", record["step"]))

    def distillkit_epoch_ended(self, record: Mapping[str, float], run: RunInfo) -> None:
        self.calls.append(("epoch", record["epoch"], run.steps_per_epoch))

    def distillkit_noted(self, step: int, note: str) -> None:
        self.calls.append(("noted", step, note))

    def distillkit_run_ended(self, record: Mapping[str, float], models: RunModels) -> None:
        self.calls.append(("ended", record["test/top1"], list(models.teachers)))

    def distillkit_run_failed(self, error: BaseException) -> None:
        self.calls.append(("failed", str(error)))


@pytest.fixture
def call_log() -> CallLog:
    return CallLog()


def test_hook_run_started(call_log: CallLog) -> None:
    plugins = installed_plugins()
    plugins.add_observers(call_log)
    plugins.run_started(RUN)
    assert call_log.calls == [("started", 4)]


def test_hook_steps_logged(call_log: CallLog) -> None:
    plugins = installed_plugins()
    plugins.add_observers(call_log)
    plugins.steps_logged(RUN, {"step": 3.0})
    assert call_log.calls == [("steps", 3.0)]


def test_hook_epoch_ended(call_log: CallLog) -> None:
    plugins = installed_plugins()
    plugins.add_observers(call_log)
    plugins.epoch_ended(RUN, {"epoch": 1.0})
    assert call_log.calls == [("epoch", 1.0, 2)]


def test_hook_noted(call_log: CallLog) -> None:
    plugins = installed_plugins()
    plugins.add_observers(call_log)
    plugins.noted(RUN, 7, "1 step was skipped")
    assert call_log.calls == [("noted", 7, "1 step was skipped")]


def test_hook_run_ended(call_log: CallLog) -> None:
    plugins = installed_plugins()
    plugins.add_observers(call_log)
    plugins.run_ended(RUN, {"test/top1": 9.0}, MODELS)
    assert call_log.calls == [("ended", 9.0, ["dino"])]


def test_hook_run_failed(call_log: CallLog) -> None:
    plugins = installed_plugins()
    plugins.add_observers(call_log)
    plugins.run_failed(RUN, ValueError("no"))
    assert call_log.calls == [("failed", "no")]


def test_observers_of_one_run_are_not_called_for_another(call_log: CallLog) -> None:
    installed_plugins().add_observers(call_log)
    installed_plugins().run_started(RUN)
    assert call_log.calls == []


def test_two_observers_of_one_class_observe_the_same_run() -> None:
    plugins, first, second = installed_plugins(), CallLog(), CallLog()
    plugins.add_observers(first, second)
    plugins.run_started(RUN)
    assert first.calls == second.calls == [("started", 4)]


def test_a_copy_has_the_observers_so_far_and_keeps_its_own() -> None:
    plugins, first, second = installed_plugins(), CallLog(), CallLog()
    plugins.add_observers(first)
    copy = plugins.copy()
    copy.add_observers(second)
    plugins.run_started(RUN)
    assert (first.calls, second.calls) == ([("started", 4)], [])
    copy.run_started(RUN)
    assert (first.calls, second.calls) == ([("started", 4)] * 2, [("started", 4)])


def test_an_observer_that_fails_is_named() -> None:
    class Failing:
        def distillkit_run_started(self) -> None:
            raise ValueError("no pen")

    plugins = installed_plugins()
    plugins.add_observers(Failing())
    with pytest.raises(BrokenPluginError) as caught:
        plugins.run_started(RUN)
    assert str(caught.value).endswith("Failing' failed in distillkit_run_started: ValueError: no pen")


def names(role: PluginRole) -> set[str]:
    """The names of the plugins that are registered for a role."""
    return {plugin.spec.name for plugin in installed_plugins().listing(role)}


def test_hook_datasets() -> None:
    assert {"digits", "folder", "timm"} <= names("dataset")


def test_hook_teachers() -> None:
    assert {"regnety16gf", "vit-b", "timm", "run"} <= names("teacher")


def test_hook_students() -> None:
    assert {"deit-ti", "deit-s", "deit-b", "vit-ti", "vit-s", "vit-b", "timm"} <= names("student")


def test_hook_losses() -> None:
    assert {"ce", "hard", "soft"} <= names("loss")


def test_hook_trackers() -> None:
    assert {"metrics", "report"} <= names("tracker")


def test_hook_evaluators() -> None:
    assert {"top1", "knn", "linear", "few-label"} <= names("evaluator")


def test_hook_exporters() -> None:
    assert {"onnx"} <= names("exporter")


def test_hook_runtimes() -> None:
    assert {"onnxruntime-cpu"} <= names("runtime")
