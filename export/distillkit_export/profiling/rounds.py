"""Interleaved benchmark: configurations take turns, round by round, each in its own process while the others idle."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from threading import Timer
from typing import Any, Protocol, Self, get_args

from distillkit.compute.machine import GpuCard, gpus
from distillkit.compute.paired_ratio import compare
from distillkit_export.profiling.caveats import caveats_of
from distillkit_export.profiling.configurations import Configuration
from distillkit_export.profiling.latency import summarise
from distillkit_export.profiling.machine import EnergyMeter
from distillkit_export.profiling.schema import (
    ConfigurationCard,
    MethodCard,
    Mode,
    RatioCard,
    RowCard,
)
from distillkit_export.profiling.worker_process import ConfigurationFailedError, MeasuringWorker, WorkerProcess

OPEN_S, PREPARE_S, ROUND_S = 300.0, 900.0, 300.0
"""Time limits of a worker: to load, to compile and warm up, and in excess of a round's duration."""
GAIN = 1.05
"""Without `batches`, the batch size doubles while any configuration's throughput grows by this factor."""
LARGEST_BATCH = 256
MODES: dict[Mode, str] = {
    "compute": "data transfers off; CUDA graph where the runtime has one; device clock where it has one, at most one "
    "query ahead; blocking wait",
    "e2e": "data transfers on, from host memory to host memory, page-locked where the runtime copies; no CUDA graph "
    "unless the runtime makes its own; host clock, depth 1; blocking wait",
}


@dataclass(frozen=True)
class MeasurementPlan:
    """How to measure. No `batches`: they double while throughput grows. No `modes`: both on a GPU, e2e on a CPU.

    `seconds` are per configuration, batch size and mode, split over `rounds`.
    """

    batches: tuple[int, ...] = ()
    modes: tuple[Mode, ...] = ()
    seconds: float = 3.0
    rounds: int = 5
    warm_up_s: float = 4.0
    min_queries: int = 10

    def method(self, batches: Sequence[int], modes: Collection[Mode]) -> MethodCard:
        """The description in the profile; `modes` are those that were measured."""
        return MethodCard(
            seconds=self.seconds,
            rounds=self.rounds,
            batches=tuple(batches),
            modes={mode: MODES[mode] for mode in MODES if mode in modes},
            percentiles="trtexec's: no interpolation, index max(n - 1 - int((1 - p / 100) * n), 0)",
            warm_up=f"until three windows agree within 2.5 %, at least 0.2 s, at most {self.warm_up_s:g} s",
        )


class ProfileObserver(Protocol):
    """Receives the progress of a profile: the next step, and the number of steps done."""

    def begin(self, what: str) -> None: ...

    def done(self, steps: int, total: int) -> None: ...


class SilentObserver:
    """Ignores the progress."""

    def begin(self, what: str) -> None: ...

    def done(self, steps: int, total: int) -> None: ...


@dataclass
class Tally:
    """Measurements so far of one configuration at one batch size in one mode."""

    prepared: dict[str, Any]
    milliseconds: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    joules: list[float | None] = field(default_factory=list)
    computed: int = 0
    gpus: list[GpuCard] = field(default_factory=list)
    has_failed: bool = False


class InterleavedBenchmark:
    """Opens each configuration once, in its own process, and measures them at one batch size after another.

    A context manager that ends all processes on exit, also on Ctrl-C, which then propagates.
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        plan: MeasurementPlan,
        *,
        baseline: str | None = None,
        observer: ProfileObserver | None = None,
        start: Callable[[], MeasuringWorker] = WorkerProcess,
    ) -> None:
        self.configurations = {each.name: each for each in configurations}
        self.plan, self.baseline = plan, baseline
        self.cards: dict[str, ConfigurationCard] = {}
        self.rows: list[RowCard] = []
        self.batches: list[int] = []
        self._observer, self._start = observer or SilentObserver(), start
        self._workers: dict[str, MeasuringWorker] = {}
        self._meter = EnergyMeter()
        self._steps = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.push(self._stack.__exit__)
            for configuration in self.configurations.values():
                self._open(configuration)
            opening.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def sweep(self) -> None:
        """Measure all configurations at every batch size of the plan."""
        for batch in self._batches():
            self.add(batch)

    def add(self, batch: int, names: Collection[str] | None = None) -> None:
        """Measure at one batch size and add the rows."""
        self.batches.append(batch)
        self.rows += self.measure(batch, names)

    def measure(
        self, batch: int, names: Collection[str] | None = None, plan: MeasurementPlan | None = None
    ) -> list[RowCard]:
        """Measure in turns; returns one row per configuration, or per one of `names`, and mode."""
        plan = plan or self.plan
        tallies: dict[tuple[str, Mode], Tally] = {}
        failed: list[RowCard] = []
        for name in list(self._workers):
            if names is None or name in names:
                for mode in self._modes(name):
                    self._prepare(name, batch, mode, plan, tallies, failed)
        for number in range(plan.rounds):
            order = list(tallies)
            # Each round starts with another configuration, so that none is always measured first.
            shift = number % max(len(order), 1)
            for name, mode in order[shift:] + order[:shift]:
                self._observer.begin(f"round {number + 1} of {plan.rounds}, batch {batch}: {name}")
                if name in self._workers:
                    self._round(name, batch, mode, plan, tallies[name, mode], failed)
                self._step()
        rows = list(self._finished(batch, tallies, failed))
        return [*rows, *failed]

    def _open(self, configuration: Configuration) -> None:
        name, artefact = configuration.name, configuration.artefact
        self._observer.begin(f"loading {name}")
        worker = self._start()
        self._stack.callback(worker.close)
        facts: dict[str, Any] = {}
        try:
            servable = {key: value for key, value in vars(artefact.servable).items() if key != "request"}
            facts = worker.ask(
                "open",
                within_s=OPEN_S,
                runtime=configuration.runtime,
                servable=servable,
                setting=dict(configuration.setting),
            )
            self._workers[name] = worker
        except ConfigurationFailedError as error:
            facts = {"failed": str(error)}
            worker.close()
        self.cards[name] = ConfigurationCard(
            name=name,
            subject=configuration.subject.name,
            runtime=configuration.runtime,
            format=artefact.servable.format,
            precision=configuration.precision,
            setting=dict(configuration.setting),
            file=artefact.file,
            file_bytes=artefact.file_bytes,
            **facts,
        )
        self._step()

    def _batches(self) -> Iterator[int]:
        """The batch sizes of the plan; or 1, 2, 4, ... while any configuration's throughput grows."""
        if self.plan.batches:
            yield from self.plan.batches
            return
        batch, best = 1, dict.fromkeys(self.cards, 0.0)
        while batch <= LARGEST_BATCH:
            yield batch
            has_gained = False
            for row in self.rows:
                if row.batch == batch and row.images_per_s is not None:
                    has_gained |= row.images_per_s > GAIN * best[row.configuration]
                    best[row.configuration] = max(best[row.configuration], row.images_per_s)
            if not has_gained:
                return
            batch *= 2

    def _modes(self, name: str) -> tuple[Mode, ...]:
        """The modes of the plan; by default both on a GPU, but only e2e on a CPU, which has no transfers."""
        return self.plan.modes or (get_args(Mode) if self._on_gpu(name) else ("e2e",))

    def _on_gpu(self, name: str) -> bool:
        return str(self.cards[name].facts.get("device", "cpu")) != "cpu"

    def _prepare(
        self,
        name: str,
        batch: int,
        mode: Mode,
        plan: MeasurementPlan,
        tallies: dict[tuple[str, Mode], Tally],
        failed: list[RowCard],
    ) -> None:
        if name not in self._workers:
            return  # its process has ended in another mode of this batch
        self._observer.begin(f"warming up at batch {batch}: {name}")
        subject = self.configurations[name].subject
        shape = [batch, *subject.shape]
        try:
            prepared = self._workers[name].ask(
                "prepare", within_s=PREPARE_S, shape=shape, dtype=subject.dtype, mode=mode, max_s=plan.warm_up_s
            )
            tallies[name, mode] = Tally(prepared)
            # Some facts are known only now, such as whether a CUDA graph was captured.
            self.cards[name] = self.cards[name].model_copy(update={"facts": prepared["facts"]})
        except ConfigurationFailedError as error:
            failed.append(self._failed(name, batch, mode, error))
        self._step()

    def _round(
        self, name: str, batch: int, mode: Mode, plan: MeasurementPlan, tally: Tally, failed: list[RowCard]
    ) -> None:
        seconds, on_gpu = plan.seconds / plan.rounds, self._on_gpu(name)
        # Read the clocks in the middle of the round, when the GPU is under load.
        sample = Timer(seconds / 2, lambda: tally.gpus.extend(gpus()[:1]))
        before = self._meter.joules() if on_gpu else None
        min_queries = math.ceil(plan.min_queries / plan.rounds)
        try:
            if on_gpu:
                sample.start()
            found = self._workers[name].ask(
                "round", within_s=seconds + ROUND_S, mode=mode, seconds=seconds, min_queries=min_queries
            )
        except ConfigurationFailedError as error:
            tally.has_failed = True
            failed.append(self._failed(name, batch, mode, error))
            return
        finally:
            if on_gpu:
                sample.join()
        after = self._meter.joules() if on_gpu else None
        tally.joules.append(None if before is None or after is None else after - before)
        tally.milliseconds += found["milliseconds"]
        tally.medians.append(statistics.median(found["milliseconds"]))
        tally.wall_s += found["wall_s"]
        # The energy counter also covers the discarded queries.
        tally.computed += len(found["milliseconds"]) + found["settled"]

    def _finished(self, batch: int, tallies: dict[tuple[str, Mode], Tally], failed: list[RowCard]) -> Iterator[RowCard]:
        """Turn the tallies into rows; failures are added to `failed`."""
        for (name, mode), tally in tallies.items():
            if tally.has_failed or name not in self._workers:
                continue  # its failure already is a row
            try:
                memory = self._workers[name].ask("memory", within_s=ROUND_S)
            except ConfigurationFailedError as error:
                failed.append(self._failed(name, batch, mode, error))
                continue
            reference = tallies.get((self.baseline, mode)) if self.baseline else None
            ratio = None
            if reference is not None and len(reference.medians) == len(tally.medians):
                ratio = RatioCard.model_validate(asdict(compare(tally.medians, reference.medians)))
            yield self._row(name, batch, mode, tally, memory, ratio)

    def _row(
        self,
        name: str,
        batch: int,
        mode: Mode,
        tally: Tally,
        memory: dict[str, Any],
        ratio: RatioCard | None,
    ) -> RowCard:  # fmt: skip
        summary = summarise(tally.milliseconds)
        clock = "host" if mode == "e2e" else self.cards[name].facts.get("clock", "host")
        slowest = min((gpu.sm_mhz for gpu in tally.gpus if gpu.sm_mhz is not None), default=None)
        highest = max((gpu.max_sm_mhz for gpu in tally.gpus if gpu.max_sm_mhz is not None), default=None)
        share = slowest / highest if slowest is not None and highest else None
        joules = [each for each in tally.joules if each is not None]
        is_complete = bool(joules) and len(joules) == len(tally.joules)
        return RowCard(
            configuration=name,
            batch=batch,
            mode=mode,
            clock=clock,
            **asdict(summary),
            images_per_s=batch * summary.queries / tally.wall_s,
            first_ms=tally.prepared["first_ms"],
            warm_up_s=tally.prepared["seconds"],
            round_medians_ms=tuple(tally.medians),
            joules_per_image=sum(joules) / (tally.computed * batch) if is_complete else None,
            sm_mhz=slowest,
            ratio=ratio,
            caveats=caveats_of(
                summary, tally.medians, clock=clock, steady=bool(tally.prepared["steady"]), sm_share=share
            ),
            **memory,
        )

    def _failed(self, name: str, batch: int, mode: Mode, error: ConfigurationFailedError) -> RowCard:
        """A row with the reason for the failure; drops a worker whose process has ended."""
        if error.has_ended:
            self._workers.pop(name).close()
        return RowCard(configuration=name, batch=batch, mode=mode, failed=str(error))

    def _step(self) -> None:
        self._steps += 1
        per_batch = sum(len(self._modes(name)) * (1 + self.plan.rounds) for name in self.cards if name in self._workers)
        batches = len(self.plan.batches) or max(len(self.batches), 1)
        left = len(self.configurations) - len(self.cards)
        total = len(self.configurations) + batches * per_batch + left * (1 + self.plan.rounds) * batches
        self._observer.done(self._steps, max(total, self._steps))


def baseline_for(names: Sequence[str], baseline: str | None) -> str | None:
    """Name of the configuration that the others are compared with: by name or runtime, or the first.

    Returns: None if no configuration has this name or runtime.
    """
    if baseline is None:
        return names[0] if names else None
    exact = [name for name in names if name == baseline]
    parts = [name for name in names if baseline in (name.split("/", 1)[1], *name.split("/")[1:2])]
    return next(iter(exact or parts), None)
