"""distillkit: turn a large vision model into a small one that ships.

These are the names that a plugin may import; everything below this package can move. None of them needs torch.
"""

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
from distillkit.contracts.plugin import PluginSpec
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
from distillkit.plugin.hookspecs import hookimpl
from distillkit.version import __version__

__all__ = [
    "BatchInfo",
    "BrokenImage",
    "BrokenPluginError",
    "CheckpointError",
    "ClassSpaceError",
    "DataError",
    "DistillkitError",
    "DuplicatePluginError",
    "GateError",
    "Incidents",
    "Loss",
    "MissingExtraError",
    "Model",
    "ModelFactory",
    "ModelRequest",
    "ModelSpec",
    "Outputs",
    "PluginError",
    "PluginSpec",
    "Read",
    "RecipeError",
    "RunDirectoryError",
    "RunInfo",
    "RunModels",
    "Samples",
    "ShapeError",
    "Signal",
    "SignalError",
    "TargetSpec",
    "TrainingError",
    "UnavailableError",
    "UnknownPluginError",
    "UserError",
    "Wanted",
    "WeightsError",
    "__version__",
    "hookimpl",
]
