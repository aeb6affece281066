"""Result of a benchmark, as data, and as the lines and rows that are shown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distillkit.benchmark.settings import ARMS, OWN_ARMS, WITHOUT_TEACHER
from distillkit.compute.busy_machine import CAVEAT_MARK, busy_machine
from distillkit.compute.machine import MachineCard, machine_line
from distillkit.compute.paired_ratio import Ratio, compare
from distillkit.messages.text import markdown_text

HEADINGS = ("arm", "ms per image", "images/s", "share of peak", "time, ratio to {}")


@dataclass(frozen=True)
class ArmResult:
    """One arm: median over the rounds, and the ratio of its time to that of the reference, taken round by round.

    `gflop_per_image` is the arithmetic of its step: a teacher's forward, a student's forward and twice that for the
    backward.
    """

    arm: str
    ms_per_image: float
    rounds_ms: tuple[float, ...]
    ratio: Ratio
    gflop_per_image: float
    step_bytes: int | None = None

    @property
    def images_per_s(self) -> float:
        return 1000 / self.ms_per_image

    def share_of(self, gflop_per_s: float) -> float:
        """The arm's GFLOP per second as a share of a rate, 0..1."""
        return self.images_per_s * self.gflop_per_image / gflop_per_s


@dataclass(frozen=True)
class LoaderResult:
    """The step of `arm` with images that loader processes decode and augment at the same time."""

    arm: str
    workers: int
    ms_per_image: float


@dataclass(frozen=True)
class BenchResult:
    """A benchmark. `conditions` say what was measured; `skipped` is the reason for each arm that was not.

    `peak_gflop_per_s` is the rate of the fastest matrix product that was measured on the device (`matmul_rate`).
    """

    made: str
    machine: MachineCard
    conditions: Mapping[str, Any]
    reference: str
    peak_gflop_per_s: float
    arms: tuple[ArmResult, ...]
    loader: LoaderResult | None
    skipped: Mapping[str, str]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Reasons not to trust the figures."""
        return busy_machine(self.machine.load_average, self.machine.cpus)

    def as_dict(self) -> dict[str, Any]:
        """The content of bench.json."""
        peak = self.peak_gflop_per_s
        arms = [
            {**asdict(arm), "images_per_s": arm.images_per_s, "share_of_peak": arm.share_of(peak)} for arm in self.arms
        ]
        return {
            "kind": "distillkit bench",
            "schema_version": 1,
            "made": self.made,
            "machine": self.machine.model_dump(mode="json"),
            **self.conditions,
            "reference": self.reference,
            "peak_gflop_per_s": peak,
            "arms": arms,
            "loader": None if self.loader is None else asdict(self.loader),
            "skipped": dict(self.skipped),
            "caveats": list(self.caveats),
        }

    def headings(self) -> tuple[str, ...]:
        """Headings of the table."""
        return (*(text.format(self.reference) for text in HEADINGS), *(("step MiB",) if self._has_memory else ()))

    def rows(self) -> Iterator[tuple[str, ...]]:
        """One row per arm, and one for the step with a loader."""
        mark = CAVEAT_MARK if self.caveats else ""
        for arm in self.arms:
            memory = ("" if arm.step_bytes is None else f"{arm.step_bytes / 2**20:,.0f}",) if self._has_memory else ()
            ratio = "1" if arm.arm == self.reference else str(arm.ratio)
            share = f"{arm.share_of(self.peak_gflop_per_s):.0%}"
            yield (
                arm.arm,
                f"{milliseconds(arm.ms_per_image)}{mark}",
                f"{arm.images_per_s:,.1f}",
                share,
                ratio,
                *memory,
            )
        if self.loader is not None:
            rate, memory = 1000 / self.loader.ms_per_image, ("",) if self._has_memory else ()
            name = f"{self.loader.arm} with loader"
            yield (name, f"{milliseconds(self.loader.ms_per_image)}{mark}", f"{rate:,.1f}", "", "", *memory)

    def lines(self) -> Iterator[str]:
        """What was measured, where."""
        given = self.conditions
        yield machine_line(self.machine)
        yield (
            f"{given['teacher']} teaches {given['student']} ({given['loss']}): {given['image_size']} px, batch "
            f"{given['batch']}, {given['precision']}, {given['device']}, {given['threads']} threads; random weights"
        )

    def remarks(self) -> Iterator[str]:
        """Caveats, arms that were not measured, and the loader."""
        yield from (f"{CAVEAT_MARK} {caveat}" for caveat in self.caveats)
        yield from (f"not measured: {name}: {reason}" for name, reason in self.skipped.items())
        form = self.conditions.get("teacher_form", "plain")
        if form != "plain":
            yield f"in the arms of distillkit, the teacher computes as {form}"
        yield from self.conditions.get("teacher_notes", ())
        yield (
            f"share of peak: the arithmetic of an arm, relative to {self.peak_gflop_per_s:,.0f} GFLOP/s, the fastest "
            f"matrix product measured here, in {self.conditions['peak_precision']}"
        )
        if self.loader is not None:
            yield (
                f"with loader: {self.loader.workers} loader processes decode and augment generated JPEG images; the "
                "other rows have their batches in memory"
            )

    def markdown(self) -> str:
        """The content of bench.md."""
        first, second = map(markdown_text, self.lines())
        versions = ", ".join(f"{name} {version}" for name, version in self.machine.software.items())
        rounds = len(self.arms[0].rounds_ms)
        lines = ["# Speed of distillation steps", "", f"{second}.", "", f"Measured {self.made} on {first}; {versions}."]
        lines += ["", f"Medians of {rounds} interleaved rounds. A ratio is that of the times within a round, with the "]
        lines[-1] += "95 % interval of its median."
        lines += ["", f"| {' | '.join(self.headings())} |", f"| --- |{' ---: |' * (len(self.headings()) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        lines += ["", *(f"- {arm.arm}: {ARMS[arm.arm]}" for arm in self.arms)]
        remarks = [f"- {markdown_text(remark).replace('*', '&ast;')}" for remark in self.remarks()]
        return "\n".join([*lines, *remarks]) + "\n"

    @property
    def _has_memory(self) -> bool:
        return any(arm.step_bytes is not None for arm in self.arms)


def milliseconds(value: float) -> str:
    """Milliseconds with three digits.

    >>> milliseconds(0.01234), milliseconds(12.345), milliseconds(1234.5)
    ('0.0123', '12.3', '1,234')
    """
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def arm_results(
    rounds_ms: Mapping[str, list[float]], step_bytes: Mapping[str, int | None], gflop_per_image: Mapping[str, float]
) -> tuple[str, tuple[ArmResult, ...]]:
    """The reference, and the results of the arms from the milliseconds per image of each round.

    `gflop_per_image` are the FLOPs of a forward of "student" and "teacher".
    """
    of_student, of_teacher = gflop_per_image["student"], gflop_per_image["teacher"]
    reference = next((name for name in OWN_ARMS if name in rounds_ms), next(iter(rounds_ms)))
    return reference, tuple(
        ArmResult(
            name,
            statistics.median(values),
            tuple(values),
            compare(rounds_ms[reference], values),
            3 * of_student + (0.0 if name in WITHOUT_TEACHER else of_teacher),
            step_bytes[name],
        )
        for name, values in rounds_ms.items()
    )
