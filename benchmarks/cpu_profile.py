"""Latency and throughput of exported students on this CPU, measured with the core of `distillkit profile`.

    best      DeiT-Ti (random weights) at batch 1 and 32: the best runtime and setting of a search, against the best of
              torch eager, torch.compile and ONNX Runtime with default settings. The goal is a ratio of at least 0.97.
    student   A distilled student in float32, float16 and INT8: accuracy and agreement on the run's test images, size,
              latency and throughput, compared with torch eager and torch.compile, in one run.

Run it on an idle machine; each part takes less than twelve minutes on two cores. It prints the section for
docs/benchmarks/README.md and writes the JSON next to it.

    python benchmarks/cpu_profile.py best [--out docs/benchmarks]
    python benchmarks/cpu_profile.py student RUN [--data DIR] [--out docs/benchmarks]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillkit.compute.machine import machine_line
from distillkit.compute.paired_ratio import Ratio, compare
from distillkit.contracts.runtime import Servable
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit_cli.progress import ProfileProgress
from distillkit_cli.terminal import Terminal
from distillkit_export import ExportOptions, export
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.profiling.configurations import Artefact, ProfiledStudent, ProfileSelection, Runtimes
from distillkit_export.profiling.machine import machine
from distillkit_export.profiling.markdown import caveat_lines, short
from distillkit_export.profiling.profile import measure
from distillkit_export.profiling.rounds import MeasurementPlan
from distillkit_export.profiling.schema import ProfileCard, RowCard
from distillkit_export.profiling.subjects import OpenTargets, bundle_subject, open_targets

MODEL = "timm:deit_tiny_distilled_patch16_224"
PLAIN = ("torch", "torch-compile", "onnxruntime-cpu")
GOAL = 0.97


def best(arguments: argparse.Namespace, plugins: PluginRegistry) -> tuple[dict[str, Any], list[str]]:
    """Find the best setting at every batch size and compare it with the best of the plain runtimes."""
    plan = MeasurementPlan(
        batches=tuple(arguments.batches), modes=("e2e",), seconds=arguments.seconds, rounds=arguments.rounds
    )
    with ExitStack() as stack:
        here = machine()
        targets = open_targets([arguments.model], plugins, stack, weights="none")
        card = measure(
            targets,
            Runtimes(plugins),
            ProfileSelection(precisions=("fp32",)),
            plan,
            tune=True,
            observer=progress(),
            here=here,
        )
    verdicts = {batch: against_plain(card, int(batch)) for batch in card.best}
    lines = [
        "| batch | best setting | p50 ms | images/s | best default runtime | p50 ms | ratio (95 %) |",
        "| ---: | --- | ---: | ---: | --- | ---: | --- |",
        *(best_line(card, batch, *verdict) for batch, verdict in verdicts.items()),
    ]
    reached = all(verdict[1].median >= GOAL for verdict in verdicts.values())
    lines += ["", f"The goal, a ratio of at least {GOAL}, is {'reached' if reached else 'missed'}."]
    ratios = {batch: {"against": name, **asdict(ratio)} for batch, (name, ratio) in verdicts.items()}
    return {"model": arguments.model, "goal": GOAL, "ratios": ratios, "profile": card.model_dump(mode="json")}, [
        *lines,
        *tables(card),
    ]


def against_plain(card: ProfileCard, batch: int) -> tuple[str, Ratio]:
    """The fastest runtime with default settings, and the winner's speed relative to it, round by round."""
    plain = {
        row.configuration: row
        for row in rows_of(card, batch)
        if card.configuration(row.configuration).runtime in PLAIN and not card.configuration(row.configuration).setting
    }
    fastest = min(plain.values(), key=lambda row: row.p50_ms or float("inf"))
    winner = next(row for row in rows_of(card, batch) if row.configuration == card.best[str(batch)].configuration)
    return fastest.configuration, compare(winner.round_medians_ms, fastest.round_medians_ms)


def best_line(card: ProfileCard, batch: str, name: str, ratio: Ratio) -> str:
    """One row of the table."""
    rows = {row.configuration: row for row in rows_of(card, int(batch))}
    winner, plain = rows[card.best[batch].configuration], rows[name]
    return (
        f"| {batch} | {short(card, winner.configuration)} | {winner.p50_ms:.2f} | {winner.images_per_s:.1f} "
        f"| {short(card, name)} | {plain.p50_ms:.2f} | {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) |"
    )


def student(arguments: argparse.Namespace, plugins: PluginRegistry) -> tuple[dict[str, Any], list[str]]:
    """Export a run in three precisions, and profile the files that passed and the model in memory."""
    run: Path = arguments.run
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        here = machine()
        options = ExportOptions(fp16=True, int8=True, data=arguments.data, gate_images=arguments.images or "all")
        exported = export(run, Path(folder) / "bundle", options, plugins=plugins)
        gate = exported.as_dict()["parity"]
        files = bundle_subject(open_bundle(exported.directory), "student")
        memory = Artefact(Servable("torch", str(run.resolve())))
        subject = ProfiledStudent(files.card, files.shape, files.dtype, (memory, *files.artefacts))
        wanted = ProfileSelection(runtimes=tuple(name for name in (*PLAIN, "openvino") if works(plugins, name)))
        plan = MeasurementPlan(tuple(arguments.batches), ("e2e",), arguments.seconds, arguments.rounds)
        targets = OpenTargets(subjects=[subject])
        card = measure(targets, Runtimes(plugins), wanted, plan, baseline="torch", observer=progress(), here=here)
    lines = [
        "| file | MB | accuracy % | torch % | agreement | gate |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(gate_line(name, report, exported.bundle.files) for name, report in gate.items()),
        *tables(card),
    ]
    result = {"images": exported.reference.images.source, "gate": gate, "profile": card.model_dump(mode="json")}
    return result, lines


def gate_line(name: str, report: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """The parity gate's result for one file; the manifest has no size for a file that failed."""
    size = f"{files[name].bytes / 1e6:.2f}" if name in files else ""
    scored = report.get("accuracy") or {}
    figures = [f"{scored[key]:.2f}" if key in scored else "" for key in ("file", "model")]
    agreement = report.get("top1_agreement")
    agreed = "" if agreement is None else f"{100 * agreement:.2f} %"
    passed = "passed" if report.get("passed") else "; ".join(report.get("failures") or ["not passed"])
    return f"| {name} | {size} | {figures[0]} | {figures[1]} | {agreed} | {passed} |"


def tables(card: ProfileCard) -> Iterator[str]:
    """All rows with their ratio to the baseline, and the caveats."""
    yield from ["", f"Against {short(card, card.baseline or '')}, round by round:", ""]
    yield "| batch | configuration | p50 ms | p99 ms | images/s | ratio (95 %) | peak MiB |"
    yield "| ---: | --- | ---: | ---: | ---: | --- | ---: |"
    for batch in card.method.batches:
        for row in rows_of(card, batch):
            ratio = "" if row.ratio is None else f"{row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})"
            yield (
                f"| {batch} | {short(card, row.configuration)} | {row.p50_ms:.2f}{'*' if row.caveats else ''} "
                f"| {row.p99_ms:.2f} | {row.images_per_s:.1f} | {ratio} | {(row.peak_rss_bytes or 0) / 2**20:.0f} |"
            )
    yield from ["", f"On {machine_line(card.machine)}."]
    yield from (f"\\* {line}" for line in caveat_lines(card))


def rows_of(card: ProfileCard, batch: int) -> list[RowCard]:
    """The measured rows of one batch size."""
    return [row for row in card.rows if row.batch == batch and row.failed is None]


def works(plugins: PluginRegistry, runtime: str) -> bool:
    """Whether a runtime can be used here."""
    return bool(Runtimes(plugins).get(runtime).availability().works)


def progress() -> Any:
    """Progress on stderr."""
    return ProfileProgress(Terminal().progress())


def main() -> None:
    """Measure one part, print its section, and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("best", "student"):
        part = parts.add_parser(name)
        part.add_argument("--batches", type=int, nargs="+", default=[1, 32])
        part.add_argument("--seconds", type=float, default=8.0, help="for each row")
        part.add_argument("--rounds", type=int, default=10)
        part.add_argument("--out", type=Path)
        if name == "best":
            part.add_argument("--model", default=MODEL)
        else:
            part.add_argument("run", type=Path)
            part.add_argument("--images", type=int, help="number of test images; default: all of them")
            part.add_argument("--data", help="labelled images, if those of the run are not on this machine")
    arguments = parser.parse_args()
    # Otherwise torch would use the caller's number of threads, and the other runtimes that of the machine.
    os.environ.pop("OMP_NUM_THREADS", None)
    result, lines = {"best": best, "student": student}[arguments.part](arguments, installed_plugins())
    print("\n".join(lines))
    if arguments.out:
        file = arguments.out / f"cpu-{arguments.part}.json"
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"written: {file.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
