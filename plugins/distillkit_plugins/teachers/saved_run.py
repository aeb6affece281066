"""`run:<run directory>`: the student of a finished run as a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import cast

from distillkit import Model, ModelRequest, ModelSpec, RunDirectoryError, WeightsError
from distillkit.models import (
    Described,
    OneAnswer,
    build_student,
    load_saved_student,
    one_answer,
    read_student,
    student_directory,
    weight_option,
)
from distillkit.plugin.registry import installed_plugins
from distillkit_plugins.teachers.options import SavedRunOptions


class SavedRun:
    """Student of a finished run as a teacher, with the head and the fusion that the run evaluated.

    `distillkit finetune` makes such a run, a teacher for the user's own classes.
    """

    Options = SavedRunOptions

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student of the run without loading its weights.

        Raises: RunDirectoryError if the directory is not a finished run; WeightsError if weights are given as well.
        """
        _check(request)
        return one_answer(replace(read_student(_directory(request)).spec, name=request.name))

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the student of the run with its weights, or random ones if `weights` is "none".

        Raises: as `describe`; PluginError if the student's plugin is not installed; WeightsError if its weights do not
        fit.
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
    checkpoint = cast("SavedRunOptions", request.options).checkpoint
    return student_directory(Path(request.argument or ""), checkpoint, option="teacher.checkpoint")


def _check(request: ModelRequest) -> None:
    directory = Path(request.argument or "")
    if not directory.is_dir():
        raise RunDirectoryError(
            f"teacher '{request.name}': there is no run directory '{directory}'; "
            "check the path, or train the teacher first, for example with "
            f"distillkit finetune MODEL --out {quote(str(directory))}"
        )
    if request.weights not in (None, "none"):
        raise WeightsError(
            f"teacher '{request.name}' has its own weights, and {weight_option()} {request.weights} was given as well; "
            f"remove {weight_option()}"
        )
