"""What a tracker may know about the run it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distillkit.contracts.incidents import Incidents

if TYPE_CHECKING:
    from torch import Tensor

    from distillkit.contracts.model import Model, TeacherView


Record: TypeAlias = Mapping[str, float]
"""What is logged at a step or at the end of an epoch: a number by name. Losses are averages over the interval."""


@dataclass(frozen=True)
class RunInfo:
    """A run as trackers see it.

    `directory` is the run directory. `recipe` is the resolved recipe as plain data. `plan` is what
    `distillkit plan --json` prints. `start_step` is 0, or the step from which the run was resumed. `incidents` is the
    ledger of what went wrong so far without ending the run.
    """

    directory: Path
    recipe: Mapping[str, Any]
    plan: Mapping[str, Any]
    steps: int
    steps_per_epoch: int
    start_step: int = 0
    incidents: Incidents = field(default_factory=Incidents)


@dataclass(frozen=True)
class Samples:
    """Some images of a run as its student sees them in evaluation: resized and cropped, not augmented.

    `split` says which images they are: "validation", else "test", else "train". `keys` identify them, `labels` are
    their classes, None for an image without one.
    Shapes: images [n, C, H, W], on the student's device, normalised with its mean and std.
    """

    split: str
    keys: tuple[str, ...]
    labels: tuple[int | None, ...]
    images: Tensor


@dataclass(frozen=True)
class RunModels:
    """The models of a run while they are in memory, and images to show them.

    `student` is as it was saved. `teachers` are those that some loss listened to, by their names in the recipe; each
    takes the student's images and sees them as it did in training. `samples(n)` are up to n images spread over the
    split, the same in every run on the same data; it raises a DataError for one that cannot be read.
    """

    student: Model
    teachers: Mapping[str, TeacherView]
    samples: Callable[[int], Samples]
