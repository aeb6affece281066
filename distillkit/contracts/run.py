"""Run data for trackers: the run, its models and sample images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from distillkit.contracts.incidents import Incidents
from distillkit.storage.atomic import append_text, write_bytes
from distillkit.storage.links import own_folder
from distillkit.storage.untrusted import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from distillkit.contracts.model import Model, TeacherView


Record: TypeAlias = Mapping[str, float]
"""Logged numbers by name, at a step or at the end of an epoch. Losses are averages over the interval."""


@dataclass(frozen=True)
class RunInfo:
    """Description of a run for trackers.

    `directory` is the run directory. `recipe` is the resolved recipe as plain data. `plan` is the output of
    `distillkit plan --json`. `start_step` is 0, or the step from which the run was resumed. `incidents` is the log of
    unreadable images and skipped steps so far. Write files with `write` and `append`, which follow no link out of the
    run directory.
    """

    directory: Path
    recipe: Mapping[str, Any]
    plan: Mapping[str, Any]
    steps: int
    steps_per_epoch: int
    start_step: int = 0
    incidents: Incidents = field(default_factory=Incidents)

    def read_json(self, name: str) -> Any:
        """The value of a JSON file in the run directory.

        Raises: OSError; ValueError for a file that is not JSON.
        """
        return read_json(self.directory / name)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file in the run directory atomically and return its path; `name` may be in a folder, "a/b.png".

        Nothing is written through a link in place of the folder.
        Raises: OSError.
        """
        path = self.directory / name
        if path.parent != self.directory:
            own_folder(path.parent)
        write_bytes(path, content if isinstance(content, bytes) else content.encode())
        return path

    def append(self, name: str, text: str) -> None:
        """Append to a text file in the run directory, never through a link.

        Raises: OSError.
        """
        append_text(self.directory / name, text)


@runtime_checkable
class LiveObserver(Protocol):
    """An observer that shows a run while it works, in addition to the life-cycle hooks. Called on rank 0.

    `progressed` gets the step, the epoch, and the averages of the log interval so far on this process: about once per
    second, and at the end of each epoch. `evaluating` gets the number of images measured so far, after every batch.
    """

    def progressed(self, run: RunInfo, record: Record) -> None: ...

    def evaluating(self, split: str, images: int, total: int) -> None: ...


@dataclass(frozen=True)
class Samples:
    """Sample images of a run, preprocessed as for evaluation of the student: resized and cropped, not augmented.

    `split` is "validation" if the run has it, else "test", else "train". `keys` identify the images, `labels` are their
    classes, None for an unlabelled image.
    Shapes: images [n, C, H, W], on the student's device, normalised with its mean and std.
    """

    split: str
    keys: tuple[str, ...]
    labels: tuple[int | None, ...]
    images: Tensor


@dataclass(frozen=True)
class RunModels:
    """The models of a run, still in memory, and sample images.

    `student` has the saved weights. `teachers` are those that at least one loss read, by their names in the recipe;
    each accepts the student's images. `samples(n)` returns up to n images spread over the split, the same in every run
    on the same data; it raises a DataError for an unreadable image.
    """

    student: Model
    teachers: Mapping[str, TeacherView]
    samples: Callable[[int], Samples]
