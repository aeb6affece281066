"""The library function behind `distillkit profile`: from targets to a profile, and the files that it is written to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from distillkit.errors import UnavailableError, UserError
from distillkit.storage.atomic import write_json, write_text
from distillkit_export.profiling.caveats import busy_machine
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
from distillkit_export.profiling.schema import MachineCard, ProfileCard
from distillkit_export.profiling.subjects import Found, find
from distillkit_export.profiling.tuning import search, verdicts, write_best

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry

JSON_FILE, MARKDOWN_FILE = "profile.json", "profile.md"


@dataclass(frozen=True)
class Profile:
    """What was measured, what was measured elsewhere and is shown beside, and where it all was written."""

    measured: ProfileCard | None
    others: tuple[ProfileCard, ...]
    directory: Path
    notes: tuple[str, ...]

    @property
    def all(self) -> tuple[ProfileCard, ...]:
        """Every profile that has something to show."""
        return (*(() if self.measured is None else (self.measured,)), *self.others)


def profile(  # noqa: PLR0913 - as the command has options
    targets: Sequence[str],
    plugins: PluginRegistry,
    *,
    wanted: ProfileSelection | None = None,
    plan: MeasurementPlan | None = None,
    baseline: str | None = None,
    earlier: ProfileCard | None = None,
    weights: str | None = None,
    tune: bool = False,
    out: Path | None = None,
    watch: ProfileObserver | None = None,
) -> Profile:
    """Measure bundles, runs and models by name on this machine, and read profiles that were measured before.

    `baseline` is a configuration or a runtime by name; `earlier` is what the result will be compared with. With `tune`,
    every setting of every runtime is tried first, and the best at each batch size is measured afresh beside the
    runtimes as they come.
    Raises: UserError and its kind for targets, names and values; UnavailableError where nothing can be measured.
    """
    wanted, plan, here = wanted or ProfileSelection(), plan or MeasurementPlan(), machine()
    require_device(wanted.device)
    if out is not None:
        require_writable(out)
    with ExitStack() as stack:
        found = find(list(targets), plugins, stack, weights)
        directory = out or found.home
        require_writable(directory)
        if not found.subjects:
            return Profile(None, tuple(found.profiles), directory, tuple(found.notes))
        if tune and len(found.subjects) > 1:
            raise UserError(f"--tune finds the setting of one student, not of {len(found.subjects)}; give one target")
        runtimes = Runtimes(plugins)
        card = measure(
            found, runtimes, wanted, plan, baseline=baseline, earlier=earlier, tune=tune, watch=watch, here=here
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / JSON_FILE, card.model_dump(mode="json"))
    write_text(directory / MARKDOWN_FILE, markdown(card))
    if card.best:
        write_best(directory, card)
    return Profile(card, tuple(found.profiles), directory, tuple(found.notes))


def measure(  # noqa: PLR0913 - what was found, what is wanted of it, and how
    found: Found,
    runtimes: Runtimes,
    wanted: ProfileSelection,
    plan: MeasurementPlan,
    *,
    baseline: str | None = None,
    earlier: ProfileCard | None = None,
    tune: bool = False,
    watch: ProfileObserver | None = None,
    here: MachineCard | None = None,
) -> ProfileCard:
    """Measure subjects that are open. `here` is the machine as it was before there was load of our own."""
    here = here or machine()
    formats = {artefact.servable.format for subject in found.subjects for artefact in subject.artefacts}
    if wanted.device is not None and MEMORY not in formats:
        raise UserError(
            f"--device says where torch computes, and torch does not run {_names(found)}, which is made of files; "
            "leave it out"
        )
    working, skipped = runtimes.usable(wanted, formats)
    chosen = configurations(found.subjects, working, wanted)
    if not chosen:
        raise UnavailableError(_nothing(found, wanted, skipped))
    if earlier is not None:
        require_comparable(earlier, here, None if tune else [each.name for each in chosen])
    winners: dict[int, Configuration] = {}
    if tune:
        winners = search(configurations(found.subjects, working, wanted, every_setting=True), plan, watch)
    compared = list({each.name: each for each in (*chosen, *winners.values())}.values())
    reference = baseline_for([each.name for each in compared], baseline)
    if reference is None:
        raise UserError(
            f"baseline '{baseline}' is none of the configurations; choose one of "
            f"{', '.join(each.name for each in compared)}"
        )
    with InterleavedBenchmark(compared, plan, baseline=reference, watch=watch) as benchmark:
        benchmark.sweep()
    card = card_of(benchmark, here, found.subjects, skipped)
    return card.model_copy(update={"best": verdicts(winners, chosen, card.rows)})


def card_of(
    benchmark: InterleavedBenchmark, here: MachineCard, subjects: Sequence[ProfiledStudent], skipped: Sequence[str] = ()
) -> ProfileCard:
    """What a benchmark has measured so far, as a profile; `here` is the machine as it was before."""
    busy = busy_machine(here.load_average, here.cpus)
    rows = (row if row.failed else row.model_copy(update={"doubts": row.doubts + busy}) for row in benchmark.rows)
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


def require_writable(directory: Path) -> None:
    """Try to write to a folder, and leave nothing behind.

    Raises: UserError where it cannot be made or written to.
    """
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
    except FileExistsError:
        raise UserError(f"--out {directory} is a file; give a folder for the profile") from None
    except OSError as error:
        raise UserError(
            f"the profile cannot be written to '{directory}' ({error.strerror}); give another folder with --out"
        ) from None
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def require_measured(card: ProfileCard, wanted: ProfileSelection) -> None:
    """Refuse a profile in which nothing was measured of a runtime or a precision that was asked for by name.

    Raises: UnavailableError.
    """
    good = {row.configuration for row in card.rows if row.failed is None}
    measured = [each for each in card.configurations if each.name in good]
    if not measured:
        raise UnavailableError("nothing was measured, because every configuration failed; the reasons stand above")
    lacking = [f"runtime '{name}'" for name in wanted.runtimes if name not in {each.runtime for each in measured}]
    precisions = {each.precision for each in measured}
    lacking += [f"precision '{name}'" for name in wanted.precisions if name not in precisions]
    if lacking:
        raise UnavailableError(
            f"nothing was measured of {' and '.join(lacking)}, although asked for; the reasons stand above"
        )


def _names(found: Found) -> str:
    return ", ".join(subject.name for subject in found.subjects)


def _nothing(found: Found, wanted: ProfileSelection, skipped: Sequence[str]) -> str:
    subjects = _names(found)
    precisions = f" in {', '.join(wanted.precisions)}" if wanted.precisions else ""
    there = sorted(
        {
            f"{artefact.servable.format} {artefact.servable.precision}"
            for subject in found.subjects
            for artefact in subject.artefacts
        }
    )
    absent = ", ".join(line.partition(":")[0] for line in skipped)
    reasons = f"; not working here: {absent}; `distillkit doctor` says why" if skipped else ""
    return f"no runtime here executes {subjects}{precisions}; there is {', '.join(there) or 'no file'}{reasons}"
