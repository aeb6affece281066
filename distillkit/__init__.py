"""distillkit: distil a large vision model into a small one and export it.

A script calls `load_recipe`, `plan`, `run`, `run_together`, `sweep`, `resume`, `evaluate`, `compare`, `load_student`
and `read_metrics`; see docs/reference/python.md. The other names are for plugins. Modules below this package are
private and may move. Importing it does not load torch; the functions for scripts are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING

from distillkit.contracts.incidents import BrokenImage, Incidents
from distillkit.contracts.loss import BatchInfo, Loss, TargetSpec
from distillkit.contracts.model import (
    Model,
    ModelFactory,
    ModelRequest,
    ModelSpec,
    Outputs,
    Read,
    Signal,
    Wanted,
)
from distillkit.contracts.plugin import MissingFile, PluginSpec
from distillkit.contracts.run import RunInfo, RunModels, Samples
from distillkit.errors import (
    BrokenPluginError,
    CheckpointError,
    ClassSpaceError,
    DataError,
    DistillkitError,
    DuplicatePluginError,
    GateError,
    MissingExtraError,
    MissingFileError,
    PluginError,
    RecipeError,
    RunDirectoryError,
    ShapeError,
    SignalError,
    TrainingError,
    UnavailableError,
    UnknownPluginError,
    UserError,
    WeightsError,
)
from distillkit.messages.text import markdown_text
from distillkit.plugin.hookspecs import hookimpl
from distillkit.version import __version__

_LOADED_WHEN_USED = {
    "Comparison": "distillkit.comparison.comparison",
    "EvaluationResult": "distillkit.evaluation.measurement",
    "LoadedStudent": "distillkit.evaluation.loaded_student",
    "Plan": "distillkit.planning.plan",
    "Recipe": "distillkit.recipe.schema",
    "RunResult": "distillkit.running.training_run",
    "SweepResult": "distillkit.sweeping.result",
    "compare": "distillkit.api",
    "evaluate": "distillkit.api",
    "load_recipe": "distillkit.api",
    "load_student": "distillkit.api",
    "plan": "distillkit.api",
    "read_metrics": "distillkit.api",
    "resume": "distillkit.api",
    "run": "distillkit.api",
    "run_together": "distillkit.api",
    "sweep": "distillkit.api",
    "with_student": "distillkit.api",
}

if TYPE_CHECKING:
    from distillkit.api import (
        compare,
        evaluate,
        load_recipe,
        load_student,
        plan,
        read_metrics,
        resume,
        run,
        run_together,
        sweep,
        with_student,
    )
    from distillkit.comparison.comparison import Comparison
    from distillkit.evaluation.loaded_student import LoadedStudent
    from distillkit.evaluation.measurement import EvaluationResult
    from distillkit.planning.plan import Plan
    from distillkit.recipe.schema import Recipe
    from distillkit.running.training_run import RunResult
    from distillkit.sweeping.result import SweepResult
else:
    # Type checkers would accept any attribute of a module with __getattr__, so they never see this one.
    def __getattr__(name: str) -> object:
        if name not in _LOADED_WHEN_USED:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return getattr(importlib.import_module(_LOADED_WHEN_USED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_WHEN_USED})


__all__ = [
    "BatchInfo",
    "BrokenImage",
    "BrokenPluginError",
    "CheckpointError",
    "ClassSpaceError",
    "Comparison",
    "DataError",
    "DistillkitError",
    "DuplicatePluginError",
    "EvaluationResult",
    "GateError",
    "Incidents",
    "LoadedStudent",
    "Loss",
    "MissingExtraError",
    "MissingFile",
    "MissingFileError",
    "Model",
    "ModelFactory",
    "ModelRequest",
    "ModelSpec",
    "Outputs",
    "Plan",
    "PluginError",
    "PluginSpec",
    "Read",
    "Recipe",
    "RecipeError",
    "RunDirectoryError",
    "RunInfo",
    "RunModels",
    "RunResult",
    "Samples",
    "ShapeError",
    "Signal",
    "SignalError",
    "SweepResult",
    "TargetSpec",
    "TrainingError",
    "UnavailableError",
    "UnknownPluginError",
    "UserError",
    "Wanted",
    "WeightsError",
    "__version__",
    "compare",
    "evaluate",
    "hookimpl",
    "load_recipe",
    "load_student",
    "markdown_text",
    "plan",
    "read_metrics",
    "resume",
    "run",
    "run_together",
    "sweep",
    "with_student",
]
