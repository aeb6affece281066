"""Library function of `distillkit profile`: measure targets and write profile.json, profile.md and best.json."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.compute.busy_machine import busy_machine
from distillkit.compute.machine import MachineCard
from distillkit.compute.result_folder import require_result_folder
from distillkit.errors import UnavailableError, UserError
from distillkit.storage.atomic import write_json, write_text
from distillkit.storage.links import require_own
from distillkit_export.bundle.manifest import PROFILE
from distillkit_export.profiling.configurations import (
    MEMORY,
    Configuration,
    ProfiledStudent,
    ProfileSelection,
    Runtimes,
    configurations,
    require_device,
)
from distillkit_export.profiling.machine import machine
from distillkit_export.profiling.markdown import markdown
from distillkit_export.profiling.regressions import require_comparable
from distillkit_export.profiling.rounds import InterleavedBenchmark, MeasurementPlan, ProfileObserver, baseline_for
from distillkit_export.profiling.schema import ProfileCard
from distillkit_export.profiling.subjects import OpenTargets, chosen_student, open_targets
from distillkit_export.profiling.tuning import best_choices, search, write_best

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry

JSON_FILE, MARKDOWN_FILE = "profile.json", "profile.md"


@dataclass(frozen=True)
class Profile:
    """The result: the new profile, earlier profiles given as targets, the output folder and notes."""

    measured: ProfileCard | None
    others: tuple[ProfileCard, ...]
    directory: Path
    notes: tuple[str, ...]

    @property
    def all(self) -> tuple[ProfileCard, ...]:
        """The new profile, if any, and the earlier ones."""
        return (*(() if self.measured is None else (self.measured,)), *self.others)


def profile(  # noqa: PLR0913 - the options of the command
    targets: Sequence[str],
    plugins: PluginRegistry,
    *,
    wanted: ProfileSelection | None = None,
    plan: MeasurementPlan | None = None,
    baseline: str | None = None,
    earlier: ProfileCard | None = None,
    checkpoint: str | None = None,
    weights: str | None = None,
    tune: bool = False,
    out: Path | None = None,
    observer: ProfileObserver | None = None,
) -> Profile:
    """Measure bundles, runs and models by name on this machine, and read earlier profiles given as targets.

    `checkpoint` chooses the student of a run: last, best, ema, or the step of a checkpoint.
    `baseline` names a configuration or a runtime; `earlier` is the profile to compare the result with. With `tune`,
    every setting of every runtime is tried first, then the best at each batch size is measured again together with the
    default settings.
    Raises: UserError and subclasses for targets, names and values; UnavailableError if nothing can be measured.
    """
    wanted, plan, here = wanted or ProfileSelection(), plan or MeasurementPlan(), machine()
    require_device(wanted.device)
    if out is not None:
        require_result_folder(out, "the profile")  # before a target is exported or measured, which takes minutes
    with ExitStack() as stack:
        opened = open_targets([chosen_student(target, checkpoint) for target in targets], plugins, stack, weights)
        directory = out or opened.home
        if out is None and directory.name.partition("-")[0] == PROFILE:  # inside a bundle or run
            require_own(directory)
        require_result_folder(directory, "the profile")
        if not opened.subjects:
            return Profile(None, tuple(opened.profiles), directory, tuple(opened.notes))
        if tune and len(opened.subjects) > 1:
            raise UserError(f"--tune works on one student, not {len(opened.subjects)}; give one target")
        runtimes = Runtimes(plugins)
        card = measure(
            opened, runtimes, wanted, plan, baseline=baseline, earlier=earlier, tune=tune, observer=observer, here=here
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / JSON_FILE, card.model_dump(mode="json"))
    write_text(directory / MARKDOWN_FILE, markdown(card))
    if card.best:
        write_best(directory, card)
    return Profile(card, tuple(opened.profiles), directory, tuple(opened.notes))


def measure(  # noqa: PLR0913 - targets, selection, plan and options
    targets: OpenTargets,
    runtimes: Runtimes,
    wanted: ProfileSelection,
    plan: MeasurementPlan,
    *,
    baseline: str | None = None,
    earlier: ProfileCard | None = None,
    tune: bool = False,
    observer: ProfileObserver | None = None,
    here: MachineCard | None = None,
) -> ProfileCard:
    """Measure opened targets. `here` is the machine's state before distillkit put any load on it."""
    here = here or machine()
    formats = {artefact.servable.format for subject in targets.subjects for artefact in subject.artefacts}
    if wanted.device is not None and MEMORY not in formats:
        raise UserError(
            f"--device applies only to models that torch runs, and {_names(targets)} consists of exported files; leave "
            "out --device"
        )
    working, skipped = runtimes.usable(wanted, formats)
    chosen = configurations(targets.subjects, working, wanted)
    if not chosen:
        raise UnavailableError(_nothing_to_measure(targets, wanted, skipped))
    if earlier is not None:
        require_comparable(earlier, here, None if tune else [each.name for each in chosen])
    winners: dict[int, Configuration] = {}
    if tune:
        winners = search(configurations(targets.subjects, working, wanted, every_setting=True), plan, observer)
    compared = list({each.name: each for each in (*chosen, *winners.values())}.values())
    reference = baseline_for([each.name for each in compared], baseline)
    if reference is None:
        raise UserError(
            f"baseline '{baseline}' is not one of the configurations; choose one of "
            f"{', '.join(each.name for each in compared)}"
        )
    with InterleavedBenchmark(compared, plan, baseline=reference, observer=observer) as benchmark:
        benchmark.sweep()
    card = card_of(benchmark, here, targets.subjects, skipped)
    return card.model_copy(update={"best": best_choices(winners, chosen, card.rows)})


def card_of(
    benchmark: InterleavedBenchmark, here: MachineCard, subjects: Sequence[ProfiledStudent], skipped: Sequence[str] = ()
) -> ProfileCard:
    """The benchmark's rows so far as a profile; `here` is the machine's state before it."""
    busy = busy_machine(here.load_average, here.cpus)
    rows = (row if row.failed else row.model_copy(update={"caveats": row.caveats + busy}) for row in benchmark.rows)
    return ProfileCard(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=here,
        method=benchmark.plan.method(benchmark.batches, {row.mode for row in benchmark.rows}),
        baseline=benchmark.baseline,
        subjects=tuple(subject.card for subject in subjects),
        configurations=tuple(benchmark.cards.values()),
        rows=tuple(rows),
        skipped=tuple(skipped),
    )


def require_measured(card: ProfileCard, wanted: ProfileSelection) -> None:
    """Refuse a profile without a measurement for a runtime or precision requested by name.

    Raises: UnavailableError.
    """
    good = {row.configuration for row in card.rows if row.failed is None}
    measured = [each for each in card.configurations if each.name in good]
    if not measured:
        raise UnavailableError("nothing was measured, because every configuration failed; see the reasons above")
    missing = [f"runtime '{name}'" for name in wanted.runtimes if name not in {each.runtime for each in measured}]
    precisions = {each.precision for each in measured}
    missing += [f"precision '{name}'" for name in wanted.precisions if name not in precisions]
    if missing:
        raise UnavailableError(f"{' and '.join(missing)} could not be measured; see the reasons above")


def _names(targets: OpenTargets) -> str:
    return ", ".join(subject.name for subject in targets.subjects)


def _nothing_to_measure(targets: OpenTargets, wanted: ProfileSelection, skipped: Sequence[str]) -> str:
    """The message when no runtime runs any artefact."""
    subjects = _names(targets)
    precisions = f" in {', '.join(wanted.precisions)}" if wanted.precisions else ""
    artefacts = [artefact for subject in targets.subjects for artefact in subject.artefacts]
    files = {(each.servable.format, each.servable.precision) for each in artefacts}
    available = sorted(f"{file_format} {precision}" for file_format, precision in files)
    unusable = ", ".join(line.partition(":")[0] for line in skipped)
    reasons = f"; not working here: {unusable} (see `distillkit doctor`)" if skipped else ""
    chosen = f"no runtime here can run {subjects}{precisions}"
    exist = not wanted.precisions or any(precision in wanted.precisions for _, precision in files)
    if wanted.runtimes and exist and not skipped:
        named = " and ".join(f"'{name}'" for name in wanted.runtimes)
        remedy = "name the run instead of its bundle" if "torch" in wanted.runtimes else "leave out --runtime"
        chosen = f"runtime {named} runs none of the files of {subjects}{precisions}; {remedy}"
    return f"{chosen}; available: {', '.join(available) or 'no file'}{reasons}"
