"""Every error that distillkit raises on purpose, in one tree.

    DistillkitError                    exit code 1
    ├── UserError                      exit code 2: a message with what is wrong and what to do
    │   ├── RecipeError                a key, a value or a combination that a recipe cannot have
    │   ├── PluginError                a plugin that is unknown, broken, duplicated or misbehaves
    │   │   ├── UnknownPluginError
    │   │   ├── BrokenPluginError
    │   │   ├── DuplicatePluginError
    │   │   └── MissingExtraError      an optional dependency that is not installed
    │   ├── SignalError                a loss reads a signal that a model does not reveal
    │   ├── ClassSpaceError            teacher, student and data have different classes
    │   ├── WeightsError               a weight file that is missing, refused or does not fit
    │   ├── MissingFileError           weights or data that are not on this machine and cannot be downloaded
    │   ├── DataError                  images, labels or folders that cannot be used
    │   │   └── UnreadableImageError   one unreadable image, with the kind of fault
    │   ├── ShapeError                 a tensor of the wrong shape, passed to or returned by a plugin
    │   ├── RunDirectoryError          a run directory that exists, is missing or is not one
    │   ├── CheckpointError            a checkpoint that is truncated or belongs to another run
    │   └── BundleError                an exported bundle that is truncated, altered or unsafe to open
    ├── TrainingError                  the run itself failed (a loss that is not finite, a full disk)
    │   ├── SkippedStepsError          too many steps in a row had a loss or gradient that was not finite
    │   └── LostProcessError           another process of the run ended or hangs
    ├── RunInterrupted                 exit code 128 + signal number: stopped by a signal, checkpoint saved
    ├── UnavailableError               exit code 3: not possible on this machine or in this format
    └── GateError                      exit code 4: the outputs of an exported file differ from the model's

A message is one line: what is wrong, the value, the allowed values, what to do. Items of a list follow it, one indented
line each. It quotes file names and keys unchanged, except for line breaks, which could imitate another message, and
control characters, which could move a terminal's cursor; see `visible`.
"""

from __future__ import annotations

from distillkit.messages.text import visible


class DistillkitError(Exception):
    """Base class of every error that distillkit raises on purpose: a message, and the items of a list below it.

    >>> print(DistillkitError("2 problems", "unknown key 'tua'", "'tau' is -1"))
    2 problems
      unknown key 'tua'
      'tau' is -1
    """

    exit_code = 1

    def __init__(self, message: str = "", *items: str) -> None:
        super().__init__(*map(visible, (message, *items)))

    def __str__(self) -> str:
        return "\n  ".join(self.args)


class UserError(DistillkitError):
    """A mistake in a command, recipe or input file; printed without a traceback."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe has an unknown key, a wrong value or a combination that cannot run."""


class PluginError(UserError):
    """A plugin cannot be used; the message names the plugin, its distribution and version."""


class UnknownPluginError(PluginError):
    """No installed plugin has this name."""


class BrokenPluginError(PluginError):
    """A plugin failed while loading, or violates its contract."""


class DuplicatePluginError(PluginError):
    """Two distributions provide a plugin of the same name."""


class MissingExtraError(PluginError):
    """An optional dependency is not installed; the message names the extra."""


class SignalError(UserError):
    """A loss reads a signal that its model does not reveal."""


class ClassSpaceError(UserError):
    """Teacher, student and data have different classes."""


class WeightsError(UserError):
    """A weight file is missing, refused or does not fit the model."""


class MissingFileError(UserError):
    """Weights or data are not on this machine and cannot be downloaded now."""


class DataError(UserError):
    """Images, labels or folders cannot be used."""


class UnreadableImageError(DataError):
    """An image cannot be read. `kind` is one of `data.image_faults.KINDS`, `reason` the end of a sentence."""

    def __init__(self, message: str, *, key: str = "", kind: str = "", reason: str = "") -> None:
        # pickle rebuilds an exception from `args` alone and then restores the attributes, so all of them are optional.
        super().__init__(message)
        self.key, self.kind, self.reason = key, kind, reason


class ShapeError(UserError):
    """A tensor passed to or returned by a plugin has the wrong shape."""


class RunDirectoryError(UserError):
    """A run directory already exists, is missing, or is not a run directory."""


class CheckpointError(UserError):
    """A checkpoint is truncated or belongs to another run."""


class BankError(UserError):
    """A target bank cannot be opened, or lacks targets that a run without the teacher's weights needs."""


class BundleError(UserError):
    """An exported bundle is truncated, altered or unsafe to open."""


class TrainingError(DistillkitError):
    """Training failed, although recipe and inputs were valid."""


class SkippedStepsError(TrainingError):
    """Too many steps in a row were skipped. All processes of the run raise it at the same step."""


class LostProcessError(TrainingError):
    """Another process of the run ended or stopped responding; the cause is in that process."""


class RunInterrupted(DistillkitError):  # noqa: N818 - nothing went wrong
    """A signal stopped the run after a step; a checkpoint of that step is saved."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class UnavailableError(DistillkitError):
    """Not possible on this machine or in this format."""

    exit_code = 3


class GateError(DistillkitError):
    """The outputs of an exported file differ from those of the model it was exported from."""

    exit_code = 4
