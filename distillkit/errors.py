"""Every error that distillkit raises on purpose, in one tree.

    DistillkitError                    exit code 1
    ├── UserError                      exit code 2: one sentence that says what is wrong and what to do
    │   ├── RecipeError                a key, a value or a combination that a recipe cannot have
    │   ├── PluginError                a plugin that is unknown, broken, duplicated or misbehaves
    │   │   ├── UnknownPluginError
    │   │   ├── BrokenPluginError
    │   │   ├── DuplicatePluginError
    │   │   └── MissingExtraError      an optional dependency that is not installed
    │   ├── SignalError                a loss reads what a model does not reveal
    │   ├── ClassSpaceError            teacher, student and data do not speak of the same classes
    │   ├── WeightsError               a weight file that is missing, refused or does not fit
    │   ├── DataError                  images, labels or folders that cannot be used
    │   │   └── UnreadableImageError   one image, with the kind of its fault
    │   ├── ShapeError                 a tensor of the wrong shape at the border of a plugin
    │   ├── RunDirectoryError          a run directory that exists, is missing or is not one
    │   ├── CheckpointError            a checkpoint that is torn or belongs to another run
    │   └── BundleError                an exported bundle that is torn, altered or unsafe to open
    ├── TrainingError                  the run itself failed (a loss that is not finite, a full disk)
    │   └── LostProcessError           another process of the run ended or hangs
    ├── RunInterrupted                 exit code 128 + the signal's number: stopped when asked to, and saved
    ├── UnavailableError               exit code 3: what was asked for cannot be made on this machine
    └── GateError                      exit code 4: an exported file does not agree with the model

A message is one line unless it lists: what is wrong, the value, what would be right, what to do. Names of files and
keys stand in it as they were found, but for what would move a terminal's cursor; see `printable`.
"""

from __future__ import annotations

from distillkit.messages.text import printable


class DistillkitError(Exception):
    """The root; catch it to catch everything that distillkit raises on purpose."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class UserError(DistillkitError):
    """A mistake in what was asked for; printed without a traceback."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe has an unknown key, a wrong value or a combination that cannot run."""


class PluginError(UserError):
    """A plugin cannot be used; the message names the plugin, its distribution and version."""


class UnknownPluginError(PluginError):
    """No installed plugin has this name."""


class BrokenPluginError(PluginError):
    """A plugin failed while it was loaded or breaks the contract."""


class DuplicatePluginError(PluginError):
    """Two distributions offer the same name."""


class MissingExtraError(PluginError):
    """An optional dependency is not installed; the message names the extra."""


class SignalError(UserError):
    """A loss reads a signal that its model does not reveal."""


class ClassSpaceError(UserError):
    """Teacher, student and data disagree on the classes."""


class WeightsError(UserError):
    """A weight file is missing, refused or does not fit the model."""


class DataError(UserError):
    """Images, labels or folders cannot be used."""


class UnreadableImageError(DataError):
    """An image cannot be read. `kind` is one of `data.image_faults.KINDS`, `reason` the end of a sentence."""

    def __init__(self, message: str, *, key: str = "", kind: str = "", reason: str = "") -> None:
        super().__init__(message)  # what pickle makes it of again, before it puts the rest back
        self.key, self.kind, self.reason = key, kind, reason


class ShapeError(UserError):
    """A tensor at the border of a plugin has the wrong shape."""


class RunDirectoryError(UserError):
    """A run directory exists already, is missing, or is not a run directory."""


class CheckpointError(UserError):
    """A checkpoint is torn or belongs to another run."""


class BundleError(UserError):
    """An exported bundle is torn, altered or unsafe to open."""


class TrainingError(DistillkitError):
    """Training cannot go on, although what was asked for was right."""


class LostProcessError(TrainingError):
    """Another process of the run ended, or says nothing any more; the cause is not here."""


class RunInterrupted(DistillkitError):  # noqa: N818 - nothing went wrong
    """A run stopped after a step because a signal asked it to; a checkpoint of that step is saved."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class UnavailableError(DistillkitError):
    """What was asked for cannot be made on this machine."""

    exit_code = 3


class GateError(DistillkitError):
    """An exported file does not agree with the model it was made from."""

    exit_code = 4
