"""The life-cycle hooks reach those who follow a run, and a failing follower is named."""

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


class Diary:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def distillkit_run_started(self, run: RunInfo) -> None:
        self.heard.append(("started", run.steps))

    def distillkit_steps_logged(self, record: Mapping[str, float]) -> None:
        self.heard.append(("steps", record["step"]))

    def distillkit_epoch_ended(self, record: Mapping[str, float], run: RunInfo) -> None:
        self.heard.append(("epoch", record["epoch"], run.steps_per_epoch))

    def distillkit_noted(self, step: int, note: str) -> None:
        self.heard.append(("noted", step, note))

    def distillkit_run_ended(self, record: Mapping[str, float], models: RunModels) -> None:
        self.heard.append(("ended", record["test/top1"], list(models.teachers)))

    def distillkit_run_failed(self, error: BaseException) -> None:
        self.heard.append(("failed", str(error)))


@pytest.fixture
def diary() -> Diary:
    return Diary()


def test_hook_run_started(diary: Diary) -> None:
    plugins = installed_plugins()
    plugins.follow(diary)
    plugins.run_started(RUN)
    assert diary.heard == [("started", 4)]


def test_hook_steps_logged(diary: Diary) -> None:
    plugins = installed_plugins()
    plugins.follow(diary)
    plugins.steps_logged(RUN, {"step": 3.0})
    assert diary.heard == [("steps", 3.0)]


def test_hook_epoch_ended(diary: Diary) -> None:
    plugins = installed_plugins()
    plugins.follow(diary)
    plugins.epoch_ended(RUN, {"epoch": 1.0})
    assert diary.heard == [("epoch", 1.0, 2)]


def test_hook_noted(diary: Diary) -> None:
    plugins = installed_plugins()
    plugins.follow(diary)
    plugins.noted(RUN, 7, "1 step was skipped")
    assert diary.heard == [("noted", 7, "1 step was skipped")]


def test_hook_run_ended(diary: Diary) -> None:
    plugins = installed_plugins()
    plugins.follow(diary)
    plugins.run_ended(RUN, {"test/top1": 9.0}, MODELS)
    assert diary.heard == [("ended", 9.0, ["dino"])]


def test_hook_run_failed(diary: Diary) -> None:
    plugins = installed_plugins()
    plugins.follow(diary)
    plugins.run_failed(RUN, ValueError("no"))
    assert diary.heard == [("failed", "no")]


def test_followers_of_one_run_do_not_hear_another(diary: Diary) -> None:
    installed_plugins().follow(diary)
    installed_plugins().run_started(RUN)
    assert diary.heard == []


def test_two_observers_of_one_class_follow_the_same_run() -> None:
    plugins, first, second = installed_plugins(), Diary(), Diary()
    plugins.follow(first, second)
    plugins.run_started(RUN)
    assert first.heard == second.heard == [("started", 4)]
    plugins.unfollow(first, second)
    plugins.run_started(RUN)
    assert len(first.heard) == len(second.heard) == 1


def test_a_follower_that_fails_is_named() -> None:
    class Grump:
        def distillkit_run_started(self) -> None:
            raise ValueError("no pen")

    plugins = installed_plugins()
    plugins.follow(Grump())
    with pytest.raises(BrokenPluginError) as caught:
        plugins.run_started(RUN)
    assert str(caught.value).endswith("Grump' failed in distillkit_run_started: ValueError: no pen")


def names(role: PluginRole) -> set[str]:
    """What is registered for a role."""
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
