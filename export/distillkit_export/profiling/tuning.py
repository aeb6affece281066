"""Find the fastest setting on this machine for each batch size, and save it in the bundle's profile folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from distillkit.compute.cpus import usable_cpus
from distillkit.compute.machine import gpus, processor
from distillkit.compute.paired_ratio import compare
from distillkit.errors import BundleError
from distillkit.storage.atomic import write_json
from distillkit.storage.untrusted import parse_json
from distillkit_export.bundle.manifest import PROFILE
from distillkit_export.bundle.reader import plain_text
from distillkit_export.profiling.configurations import MEMORY, Configuration
from distillkit_export.profiling.rounds import InterleavedBenchmark, MeasurementPlan, ProfileObserver, SilentObserver
from distillkit_export.profiling.schema import ChoiceCard, ProfileCard, ProfilePart, RatioCard, RowCard
from distillkit_export.profiling.worker_process import MeasuringWorker, WorkerProcess

BEST_FILE = "best.json"
FIRST_SECONDS, FIRST_ROUNDS, MIN_QUERIES, WARM_UP_S = 0.3, 2, 4, 1.0
"""A candidate's first measurement; its time doubles with every halving of the field."""


class BestCard(ProfilePart):
    """best.json: the best setting by batch size, and the machine it is valid on."""

    kind: Literal["distillkit best setting"] = "distillkit best setting"
    schema_version: Literal[1] = 1
    processor: str
    cpus: int
    gpus: tuple[str, ...]
    software: dict[str, str]
    batches: dict[str, ChoiceCard]


def search(
    candidates: Sequence[Configuration],
    plan: MeasurementPlan,
    observer: ProfileObserver | None = None,
    start: Callable[[], MeasuringWorker] = WorkerProcess,
) -> dict[int, Configuration]:
    """The fastest candidate at every batch size of the plan, by successive halving.

    All are measured briefly and in turns; the slower half is dropped and the rest measured for twice as long, until one
    is left. Models in memory run only with default settings, since they are the reference for the files.
    """
    field = _without_tuned_models(candidates)
    short = replace(
        plan,
        modes=(plan.modes or ("e2e",))[-1:],  # one mode is enough for a ranking
        seconds=FIRST_SECONDS,
        rounds=FIRST_ROUNDS,
        warm_up_s=WARM_UP_S,
        min_queries=MIN_QUERIES,
    )
    winners = {}
    with InterleavedBenchmark(
        field, short, observer=_TuningObserver(observer or SilentObserver()), start=start
    ) as benchmark:
        for batch in plan.batches or (1,):
            winner = _fastest(benchmark, batch, short)
            if winner is not None:
                winners[batch] = benchmark.configurations[winner]
    return winners


def best_choices(
    winners: Mapping[int, Configuration], plain: Sequence[Configuration], rows: Sequence[RowCard]
) -> dict[str, ChoiceCard]:
    """The latency of each winner in the final measurement, and its speed-up over the default settings `plain`."""
    found = {}
    for batch, winner in winners.items():
        measured = {
            row.configuration: row
            for row in sorted(rows, key=lambda row: row.mode)  # e2e overwrites compute
            if row.batch == batch and row.failed is None
        }
        own = measured.get(winner.name)
        if own is None or own.p50_ms is None:
            continue
        others = {each.name: measured[each.name] for each in plain if each.name in measured}
        others.pop(winner.name, None)
        found[str(batch)] = ChoiceCard(
            configuration=winner.name,
            runtime=winner.runtime,
            format=winner.artefact.servable.format,
            precision=winner.precision,
            setting=dict(winner.setting),
            file=winner.artefact.file,
            p50_ms=own.p50_ms,
            against={
                name: RatioCard.model_validate(asdict(compare(own.round_medians_ms, row.round_medians_ms)))
                for name, row in others.items()
            },
        )
    return found


def write_best(directory: Path, card: ProfileCard) -> None:
    """Write `best.json`; it is valid only on this machine."""
    best = BestCard(
        processor=card.machine.processor,
        cpus=card.machine.cpus,
        gpus=tuple(gpu.name for gpu in card.machine.gpus),
        software=card.machine.software,
        batches=card.best,
    )
    write_json(directory / BEST_FILE, best.model_dump(mode="json"))


def best_setting(bundle: Path, batch: int) -> ChoiceCard | None:
    """The setting saved by `distillkit profile BUNDLE --tune` for this or the next smaller batch size.

    Returns None if nothing was saved, or by another machine.
    """
    try:
        best = BestCard.model_validate(parse_json(plain_text(bundle, f"{PROFILE}/{BEST_FILE}")))
    except (BundleError, ValueError):
        return None
    here = (processor(), usable_cpus(), tuple(gpu.name for gpu in gpus()))
    if (best.processor, best.cpus, best.gpus) != here:
        return None
    sizes = sorted((int(size) for size in best.batches if size.isdecimal()), reverse=True)
    fitting = next((size for size in sizes if size <= batch), None)
    return None if fitting is None else best.batches[str(fitting)]


@dataclass(frozen=True)
class _TuningObserver:
    """Marks progress as part of the search."""

    observer: ProfileObserver

    def begin(self, what: str) -> None:
        self.observer.begin(f"trying settings, {what}")

    def done(self, steps: int, total: int) -> None:
        self.observer.done(steps, total)


def _fastest(benchmark: InterleavedBenchmark, batch: int, short: MeasurementPlan) -> str | None:
    """Halve the field until one is left."""
    names, plan = list(benchmark.configurations), short
    while True:
        measured = [row for row in benchmark.measure(batch, names, plan) if row.failed is None]
        ranked = sorted(measured, key=lambda row: statistics.median(row.round_medians_ms))
        names = [row.configuration for row in ranked[: (len(ranked) + 1) // 2]]
        if len(names) < 2:
            return next(iter(names), None)
        plan = replace(plan, seconds=2 * plan.seconds, rounds=plan.rounds + 1)


def _without_tuned_models(candidates: Sequence[Configuration]) -> list[Configuration]:
    """All settings of files, but only the first setting of models in memory, by runtime and precision."""
    seen: set[tuple[str, str]] = set()
    field = []
    for each in candidates:
        key = (each.runtime, each.precision)
        if each.artefact.servable.format != MEMORY or key not in seen:
            field.append(each)
        seen.add(key)
    return field
