"""`distillkit replay`: repeat a saved step and find the first module, samples and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit.data.batches import MicroBatch
from distillkit.errors import CheckpointError, RunDirectoryError
from distillkit.planning.make_plan import make_plan
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.checkpoint_folders import checkpoint_at, checkpoints
from distillkit.running.directory import RunDirectory
from distillkit.running.prepared import require_paths
from distillkit.running.saved_step import SavedMicroBatch, SavedStep, read_saved_step
from distillkit.running.session import TrainingSession, build_session
from distillkit.training.find_nonfinite import BadOutput, NonFiniteFinder
from distillkit.training.gradient_norms import gradient_norm
from distillkit.training.step import averages_in

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class BadSample:
    """A sample with a loss term that is not finite; `index` is its index in the training set, None in a stream."""

    term: str
    key: str
    index: int | None


@dataclass(frozen=True)
class Replay:
    """The result of replaying a saved step.

    `terms` maps each term, and `loss`, to its average over the window in the run and in the replay. `output` is the
    first module output that is not finite. `parameters` are those whose gradient is not finite, of `trained` in total.
    """

    directory: Path
    step: int
    reason: str
    device: str
    precision: str
    terms: Mapping[str, tuple[float, float]]
    gradient_norm: float
    samples: tuple[BadSample, ...]
    output: BadOutput | None
    parameters: tuple[str, ...]
    trained: int

    @property
    def reproduced(self) -> bool:
        """Whether loss or gradient is not finite in the replay too."""
        return not math.isfinite(self.terms["loss"][1]) or not math.isfinite(self.gradient_norm)

    def as_dict(self) -> dict[str, Any]:
        """The replay as plain data; JSON has no NaN or infinity, so these are strings."""
        output = self.output
        return {
            "directory": str(self.directory),
            "step": self.step,
            "reason": self.reason,
            "device": self.device,
            "precision": self.precision,
            "reproduced": self.reproduced,
            "terms": {
                name: {"then": _json_number(then), "now": _json_number(now)} for name, (then, now) in self.terms.items()
            },
            "gradient_norm": _json_number(self.gradient_norm),
            "samples": [vars(sample) for sample in self.samples],
            "output": output and {"module": output.module, "kind": output.kind, "input_range": output.input_range},
            "parameters": list(self.parameters),
            "trained": self.trained,
        }


def replay(
    run: Path,
    plugins: PluginRegistry,
    *,
    step: int | None = None,
    precision: str | None = None,
    device: str | None = None,
) -> Replay:
    """Replay the last saved step of a run, or `step`, in the precision of the run or another. Writes nothing.

    The batches of all processes run one after the other, each with the model noise of its process.
    Raises: RunDirectoryError where the run has no such step; CheckpointError where it is damaged.
    """
    directory = RunDirectory(run)
    recipe = directory.read_recipe()
    saved = read_saved_step(_saved_step_path(directory, step))
    require_paths(recipe, run, with_initial_weights=False)
    # Not compiled: the hooks of NonFiniteFinder have to see every module.
    changes = {"compile": False, "precision": precision or PRECISIONS[saved.incident.precision]}
    changes |= {"device": device} if device else {}
    teachers = tuple(teacher.model_copy(update={"form": "plain"}) for teacher in recipe.teachers)
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=changes), "teachers": teachers})
    session = build_session(make_plan(recipe, plugins, resuming=True))
    _require_fit(session, saved)
    return _Replayer(session, saved).run()


def _require_fit(session: TrainingSession, saved: SavedStep) -> None:
    """Check the images and labels of a saved step, before a model computes with them.

    Raises: CheckpointError if they are not those of the run's recipe.
    """
    spec, classes = session.plan.student.spec, session.plan.classes
    size = (len(spec.mean), *spec.image_size)
    for batch in (batch for window in saved.windows for batch in window.micro_batches):
        if batch.images.shape[1:] != size:
            found, wanted = ("x".join(map(str, shape)) for shape in (batch.images.shape[1:], size))
            raise CheckpointError(
                f"checkpoint {saved.directory} cannot be replayed: its images are {found}, those of the run {wanted}"
            )
        if batch.labels is not None and batch.labels.shape[1] != classes:
            raise CheckpointError(
                f"checkpoint {saved.directory} cannot be replayed: its labels have {batch.labels.shape[1]:,} classes, "
                f"the run {classes or 0:,}"
            )


def _saved_step_path(directory: RunDirectory, step: int | None) -> Path:
    """The folder of a saved step, of the last one where `step` is None."""
    found = checkpoints(directory.saved_steps)
    if not found:
        raise RunDirectoryError(
            f"{directory.path} has no step to replay; one is saved when training.max_skipped steps in a row are skipped"
        )
    if step is None:
        return found[-1]
    if checkpoint_at(directory.saved_steps, step) not in found:
        known = ", ".join(str(int(path.name.removeprefix("step-"))) for path in found)
        raise RunDirectoryError(f"{directory.path} has no saved step {step}; saved steps: {known}")
    return checkpoint_at(directory.saved_steps, step)


class _Replayer:
    """Replays one saved step in its own session."""

    def __init__(self, session: TrainingSession, saved: SavedStep) -> None:
        self.session = session
        self.saved = saved
        self.values: dict[str, float] = {}
        self.samples: list[BadSample] = []

    def run(self) -> Replay:
        session, saved = self.session, self.saved
        task, scaler = session.task, session.optimisation.scaler
        state = saved.before.state
        if scaler.is_enabled() and not state["scaler"]:
            state = {**state, "scaler": scaler.state_dict()}  # the run was not in fp16 and saved none
        before = replace(saved.before, state=state)
        finder = NonFiniteFinder()
        modules = {
            "student": task.student,
            **{f"loss '{name}'": loss for name, loss in task.named_losses.items()},
            **{f"teacher '{name}'": teacher for name, teacher in session.teachers.items()},
        }
        trained = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
        with finder.watching(modules, trained):
            for rank in range(len(saved.windows)):
                session.restore(before)  # BatchNorm statistics are separate in each process
                self._accumulate(rank)
        scaler.unscale_(session.optimisation.optimizer)
        then = self._saved_averages()
        return Replay(
            saved.directory,
            saved.before.step,
            saved.incident.reason,
            str(session.device),
            PRECISIONS[str(session.precision).removeprefix("torch.")],
            {name: (then.get(name, math.nan), now) for name, now in self.values.items()},
            float(gradient_norm(list(trained.values()))),
            tuple(self.samples),
            finder.output,
            tuple(finder.parameters),
            len(trained),
        )

    def _accumulate(self, rank: int) -> None:
        """Forward and backward of the micro-batches of one process."""
        window, stepper = self.saved.windows[rank], self.session.stepper
        for number, saved in enumerate(window.micro_batches):
            batch = _to_device(saved, self.saved.incident.micro_batches[rank][number].indices, self.session.device)
            terms = stepper.terms(window, number, batch, rank=rank)
            averages = averages_in(window, terms, batch)
            loss = stepper.objective.total(averages)
            for name, value in (*averages.items(), ("loss", loss)):
                self.values[name] = self.values.get(name, 0.0) + float(value.detach())
            self._find_bad_samples(terms, self.saved.incident.micro_batches[rank][number])
            # Gradients add up over processes, as DDP would do it; a loss may reach no parameter.
            if loss.requires_grad:
                self.session.optimisation.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch does not type it

    def _find_bad_samples(self, terms: Mapping[str, Tensor], part: SavedMicroBatch) -> None:
        """Add the samples with a value that is not finite in a per-sample term."""
        for name, values in terms.items():
            if values.dim() == 0:  # a loss that couples its batch has no values per sample
                continue
            for place in torch.isfinite(values).logical_not().nonzero().flatten().tolist():
                self.samples.append(BadSample(name, part.keys[place], part.indices[place]))

    def _saved_averages(self) -> dict[str, float]:
        """The average of each term in the run, summed over micro-batches and processes."""
        parts = [part.terms for parts in self.saved.incident.micro_batches for part in parts]
        return {name: sum(part.get(name, 0.0) for part in parts) for part in parts for name in part}


def _to_device(batch: MicroBatch, numbers: Sequence[int | None], device: torch.device) -> MicroBatch:
    labels = None if batch.labels is None else batch.labels.to(device)
    index = None if None in numbers else torch.tensor(numbers, device=device)
    return MicroBatch(batch.images.to(device), labels, batch.label_mass.to(device), batch.keys, index=index)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
