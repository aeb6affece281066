"""A student of an earlier run as a teacher: `run:<run directory>`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from distillkit import Model, ModelRequest, ModelSpec, RunDirectoryError, WeightsError
from distillkit.models import Described, OneAnswer, build_student, load_saved_student, one_answer, read_student
from distillkit.plugin.registry import installed_plugins


class SavedRun:
    """Answers as that run's student does: with the head and the fusion that the run evaluated.

    It is how `distillkit finetune` makes a teacher for the user's own classes.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """A run says everything about its student."""

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student of the run; its weights stay where they are.

        Raises: RunDirectoryError for what is no finished run; WeightsError where weights are given beside it.
        """
        _check(request)
        return one_answer(replace(read_student(_directory(request)).spec, name=request.name))

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the student of the run with its weights; with random ones where `weights` is "none".

        Raises: as `describe`; PluginError where the student's plugin is not installed; WeightsError where its weights
        do not fit.
        """
        _check(request)
        plugins = installed_plugins()
        if request.weights == "none":
            saved = read_student(_directory(request))
            model = build_student(saved, plugins)
        else:
            model, saved = load_saved_student(_directory(request), plugins)
        named = Described(model, replace(model.spec, name=request.name))
        return OneAnswer(named, head=saved.head, fusion=saved.fusion)


def _directory(request: ModelRequest) -> Path:
    return Path(request.argument or "")


def _check(request: ModelRequest) -> None:
    directory = _directory(request)
    if not directory.is_dir():
        raise RunDirectoryError(
            f"teacher '{request.name}' is a run, and there is no run directory {directory}; "
            f"check the path, or make the teacher first, such as with distillkit finetune MODEL --out {directory}"
        )
    if request.weights not in (None, "none"):
        raise WeightsError(
            f"teacher '{request.name}' has weights of its own and {request.weights} were given too; "
            "leave --teacher-weights out"
        )
