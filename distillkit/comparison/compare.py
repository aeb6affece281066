"""Compare runs: what `distillkit.compare` and `distillkit compare` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

from distillkit.comparison.arms import ComparedArm, group, seed_text
from distillkit.comparison.comparison import Comparison, LeftOut
from distillkit.comparison.find_runs import find_runs
from distillkit.comparison.per_class import per_class
from distillkit.comparison.pictures import disagreements
from distillkit.comparison.run_facts import RunFacts, read_run
from distillkit.comparison.same_images import comparable_splits
from distillkit.errors import RunDirectoryError, UserError
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import counted
from distillkit.plugin.extras import require
from distillkit.plugin.registry import PluginRegistry

if TYPE_CHECKING:
    from distillkit.data.sources import Split

MOST_IMAGES = 100
"""Limit on the pictures of one kind, so that a page stays small."""


def compare_runs(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    baseline: str | PathLike[str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare the finished runs among `paths`, without their predictions; see `with_answers`.

    Raises: as `distillkit.compare`.
    """
    runs: list[RunFacts] = []
    missing: list[LeftOut] = []
    for path in find_runs(paths):
        try:
            runs.append(read_run(path))
        except RunDirectoryError as error:
            missing.append(LeftOut(str(path), str(error)))
    missing += [LeftOut(name, reason) for name, reason in (left_out or {}).items()]
    if not runs:
        raise RunDirectoryError(
            "there is no finished run to compare", *(f"{each.name}: {each.reason}" for each in missing)
        )
    splits, notes = comparable_splits(runs)
    arms, repeated = group(runs)
    missing += [
        LeftOut(earlier.name, f"it has the recipe and {seed_text(earlier.seed)} of '{later.name}'")
        for earlier, later in repeated
    ]
    return Comparison(
        arms=arms,
        baseline=_baseline(arms, baseline),
        splits=splits,
        left_out=tuple(missing),
        notes=(*notes, *_notes(arms)),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        per_class=per_class(arms, splits[0], None) if splits else None,
    )


def with_answers(
    comparison: Comparison,
    images: int,
    plugins: PluginRegistry,
    *,
    device: str = "auto",
    report: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """The comparison with the predictions of all students, and up to `images` examples of each kind.

    Raises: UserError for a number outside of 1 to MOST_IMAGES; DataError if no student could be measured.
    """
    check_images(images)
    if not comparison.splits:
        raise UserError("no run was measured on labelled images, so there are no answers to show; leave out --images")
    require("torch", "timm", what="distillkit compare --images")
    from distillkit.comparison.answers import predict

    split = cast("Split", comparison.splits[0])
    answers = predict(comparison.runs, split, plugins, device=device, report=report)
    return replace(
        comparison,
        notes=(*comparison.notes, *answers.notes),
        per_class=per_class(comparison.arms, split, answers),
        disagreements=tuple(disagreements(answers, comparison.arms, comparison.baseline, images)),
    )


def check_images(images: int) -> None:
    """Refuse a number of pictures outside of 1 to MOST_IMAGES, before anything is read. Raises: UserError."""
    if not 1 <= images <= MOST_IMAGES:
        raise UserError(f"--images is {images}; give a number from 1 to {MOST_IMAGES}, or leave it out")


def _baseline(arms: Sequence[ComparedArm], wanted: str | PathLike[str] | None) -> ComparedArm:
    """The arm of this name, or with this run; the first one by default. Raises: UserError."""
    if wanted is None:
        return arms[0]
    by_name = {arm.name: arm for arm in arms}
    if str(wanted) in by_name:
        return by_name[str(wanted)]
    path = Path(wanted).resolve()
    found = next((arm for arm in arms for run in arm.runs if run.path.resolve() == path), None)
    if found is None:
        raise UserError(f"--baseline: {unknown_name('arm or run', str(wanted), by_name)}")
    return found


def _notes(arms: Sequence[ComparedArm]) -> Iterator[str]:
    """What to know about the comparison: a single arm, other seeds, other devices, bundles that are left out."""
    runs = [run for arm in arms for run in arm.runs]
    if len(runs) == 1:
        yield "this is one run, so there is nothing to compare it with; give more runs, or a folder that holds them"
    elif len(arms) == 1:
        yield "all recipes are the same except for their seeds, so there is one arm"
    seeds = [frozenset(run.seed for run in arm.runs) for arm in arms]
    if any(each != seeds[0] and each & seeds[0] for each in seeds):
        yield "the arms have different seeds; differences are taken over the seeds that an arm shares with the baseline"
    if any(not each & seeds[0] for each in seeds):
        yield "a difference marked u is not paired: the arm shares no seed with the baseline"
    devices = sorted({run.device for run in runs if run.device is not None})
    if len(devices) > 1:
        used = f"{counted(len(devices), 'device')} ({', '.join(devices)})"
        yield f"times and images/s are not comparable: the runs used {used}"
    if any(run.result.runs_in_pass > 1 for run in runs):
        yield (
            "times and images/s of runs that were trained in one pass with others are those of the whole pass, and not "
            "what a run costs alone"
        )
    if any(not each.is_reliable for run in runs for export in run.exports for each in export.latencies):
        yield "a latency marked * has caveats in its profile: the machine was busy, or the times vary"
    for run in runs:
        yield from run.notes
