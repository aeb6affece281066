"""Settings of `distillkit bench`, for the command line and Python, checked before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from distillkit.compute.cpus import loader_processes
from distillkit.contracts.teacher_form import ALLOWED, chosen_form
from distillkit.errors import RecipeError, UserError
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import shortened
from distillkit.planning.preflight import check_plugins
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.image_tables import MOST_WORKERS
from distillkit.recipe.schema import Recipe

ARMS = {
    "minimal": "a loop written by hand in plain torch",
    "student": "distillkit on labels alone, without a teacher",
    "live": "distillkit, with the teacher in every step",
    "bank": "distillkit, with targets from a filled bank",
    "timm": "timm.task as its script uses it, in float32",
    "timm-bf16": "timm.task under bf16 autocast",
    "deit": "train_one_epoch of the DeiT authors",
}
"""The arms, and what each of them is."""
OWN_ARMS = ("bank", "live", "student")
"""Those of distillkit, which train one student. Ratios refer to the first of these that was measured, and it is also
measured with a loader."""
PLAIN_ARMS = tuple(name for name in ARMS if name not in OWN_ARMS)
"""The others. They do not use our models, but their networks; each has a student of its own."""
WITHOUT_TEACHER = frozenset({"student", "bank"})
"""The arms whose steps compute no teacher."""
DEIT_FILES = ("engine.py", "losses.py", "utils.py")
CPU_BATCH, GPU_BATCH = 16, 128
ROUNDS, LEAST_ROUNDS = 10, 2
OPTIONS = {
    "student.image_size": "--image-size",
    "training.batch_size": "--batch",
    "training.device": "--device",
    "training.precision": "--precision",
    "data.workers": "--workers",
}
"""The options in place of these keys of a recipe, for messages."""

T = TypeVar("T")


def option(default: T, text: str, **more: Any) -> T:
    """A field that is also a command-line option, with `text` as its help."""
    return field(default=default, metadata={"help": text, **more})


def parse_arms(text: str | None) -> tuple[str, ...] | None:
    """The value of --arms, in the order of ARMS.

    Raises: UserError for an unknown arm.
    """
    if text is None:
        return None
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in ARMS:
            raise UserError(f"--arms: {unknown_name('arm', name, ARMS)}")
    return tuple(name for name in ARMS if name in named)


@contextmanager
def named_as_options() -> Iterator[None]:
    """Name options, and not the keys of the recipe that is made from them, in messages about this recipe."""
    try:
        yield
    except RecipeError as error:
        raise type(error)(*map(_with_options, error.args)) from error.__cause__


def _with_options(message: str) -> str:
    for key, name in OPTIONS.items():
        message = message.replace(key, name)
    return message


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What is measured, with the names of the command line. Without `arms` all of them, `deit` only with its folder."""

    teacher: str = option("regnety16gf", "Teacher, such as regnety16gf or timm:<model>.", metavar="NAME")
    student: str = option("deit-ti", "Student, such as deit-ti, vit-s or timm:<model>.", metavar="NAME")
    loss: Literal["hard", "soft"] = option("hard", "Distillation loss.")
    batch: int | None = option(
        None, f"Images of a step. Default: {CPU_BATCH}, on a GPU {GPU_BATCH}.", metavar="N", min=2
    )
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision of all arms but timm's and deit. auto is bf16 on a GPU that supports it, else fp32."
    )
    form: str = option(
        "auto", "How the teacher computes in our arms, see teacher.form in docs/teacher-forms.md.", metavar="FORM"
    )
    compile: bool = option(False, "torch.compile for student and teacher in our arms.")
    image_size: int | None = option(None, "Image size of the student. Default: its own.", metavar="PIXELS", min=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.", metavar="NAME")
    arms: tuple[str, ...] | None = option(None, f"Some of {', '.join(ARMS)}.", metavar="NAME,...", parse=parse_arms)
    deit: Path | None = option(  # noqa: RUF009 - it returns a field
        None, "A clone of facebookresearch/deit, whose engine is measured too. Runs its code.", metavar="DIR"
    )
    rounds: int | None = option(
        None, f"Interleaved rounds. Default: {ROUNDS}, or with --minutes as many as fit.", metavar="N", min=LEAST_ROUNDS
    )
    minutes: float | None = option(None, "Start no round that would end later than this.", metavar="N")
    workers: int | None = option(
        None, "Loader processes of the figure with a loader. Default: the number of cores, at most 8.", metavar="N",
        min=0, max=MOST_WORKERS,
    )  # fmt: skip

    @property
    def chosen_arms(self) -> tuple[str, ...]:
        """The arms to measure."""
        return self.arms or tuple(name for name in ARMS if name != "deit" or self.deit is not None)

    def recipe(self, bank: Path, batch: int) -> Recipe:
        """The recipe of our arms: random weights, and DeiT's augmentation without mixing and clipping."""
        size = {} if self.image_size is None else {"image_size": self.image_size}
        teacher = {"model": self.teacher, "name": "teacher", "weights": "none", "size": "student"}
        return Recipe.model_validate(
            {
                "bank": str(bank),
                # A number: it must not change in the middle of a measurement.
                "data": {"views": 1, "workers": loader_processes(self.workers)},
                "augment": {"auto": "rand-m9-mstd0.5-inc1", "erasing": 0.25},
                "teachers": [teacher | {"precision": self.precision, "form": self.form}],
                "student": {"model": self.student} | size,
                "losses": [{"loss": self.loss}],
                "training": {
                    "batch_size": batch,
                    "precision": self.precision,
                    "device": self.device,
                    "compile": self.compile,
                    "epochs": 1000,
                },
                "schedule": {"name": "constant"},
                "trackers": [],
            }
        )

    def check(self, plugins: PluginRegistry) -> None:
        """Check what is known before torch is imported.

        Raises: UserError; the errors of unknown plugins and of their options.
        """
        try:
            chosen_form(self.form)
        except ValueError:
            raise UserError(f"--form is '{shortened(self.form)}'; give {ALLOWED}") from None
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"--minutes is {self.minutes:g}; give a number above 0")
        if self.deit is None and "deit" in self.chosen_arms:
            raise UserError("arm 'deit' needs a clone of facebookresearch/deit; give it with --deit DIR")
        if self.deit is not None:
            if not self.deit.is_dir():
                raise UserError(f"--deit {self.deit}: no such folder; give a clone of facebookresearch/deit")
            missing = [name for name in DEIT_FILES if not (self.deit / name).is_file()]
            if missing:
                raise UserError(f"--deit {self.deit} has no {missing[0]}; give a clone of facebookresearch/deit")
            if self.arms and "deit" not in self.arms:
                raise UserError("--deit has no effect, because --arms does not name deit; add it, or leave out --deit")
        check_plugins(self.recipe(Path("bank"), self.batch or CPU_BATCH), plugins)
