"""Latency and throughput on this GPU: DeiT-Ti, -S and -B and RegNetY-16GF, with random weights, in one call.

Measures torch eager in float32, bfloat16 and float16, torch.compile with CUDA graphs in the latter two, and ONNX
Runtime on CUDA and TensorRT if they are installed. Rounds are interleaved, and ratios are relative to eager float32.
The call has a deadline: what does not fit is dropped, and the report lists it.

    python benchmarks/gpu_profile.py [--minutes 9] [--out docs/benchmarks] [--model NAME ...] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from distillkit.compute.machine import MachineCard, machine_line
from distillkit.contracts.exporter import Precision
from distillkit.contracts.runtime import Servable
from distillkit.errors import DistillkitError
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit_export import ExportOptions, export
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.profiling.configurations import Artefact, Configuration, ProfiledStudent, Runtimes
from distillkit_export.profiling.machine import machine
from distillkit_export.profiling.markdown import caveat_lines, ratio_text, short
from distillkit_export.profiling.profile import card_of
from distillkit_export.profiling.rounds import InterleavedBenchmark, MeasurementPlan
from distillkit_export.profiling.schema import ProfileCard, SubjectCard
from distillkit_export.profiling.subjects import bundle_subject

MODELS = (
    "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "regnety_160",
)
BATCHES, COMPILED_BATCHES = (1, 32, 8, 128), (1, 32)
"""The most informative first. torch.compile is slow for every batch size, so it gets two."""
MIN_S = 45.0
"""A model, or a kind of runtime of it, is not started with less time left than this."""
EAGER: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
COMPILED: tuple[Precision, ...] = ("bf16", "fp16")


class OutOfTimeError(Exception):
    """The deadline passed during a measurement."""


@dataclass
class Deadline:
    """Watches the measurements: prints each one to stderr as it starts, and ends them when the time is up."""

    ends: float
    dropped: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def begin(self, what: str) -> None:
        if self.left < 0:
            raise OutOfTimeError(what)
        print(f"{self.left:4.0f} s left: {what}", file=sys.stderr)

    def done(self, steps: int, total: int) -> None: ...

    def has(self, seconds: float, what: str) -> bool:
        """Whether `seconds` are left; if not, `what` is recorded as dropped."""
        if self.left < seconds:
            self.dropped.append(f"{what}: not started, {max(self.left, 0):.0f} s were left")
        return self.left >= seconds


def in_memory(model: str, device: str, plugins: PluginRegistry) -> tuple[ProfiledStudent, list[Configuration]]:
    """A model in torch by its timm name: eager in every precision, compiled in the low ones (on a CPU in float32)."""
    from distillkit_export.pipeline.target import load_target

    target = f"timm:{model}"
    spec = load_target(target, plugins, ExportOptions(weights="none")).model.spec
    shape = (len(spec.mean), *spec.image_size)
    card = SubjectCard(name=model, architecture=spec.architecture, parameters=spec.parameters)
    subject = ProfiledStudent(card, shape, "float32", ())
    found = []
    on_cpu = device == "cpu"
    kinds: tuple[tuple[str, tuple[Precision, ...]], ...] = (
        ("torch", ("fp32", "bf16") if on_cpu else EAGER),
        ("torch-compile", ("fp32",) if on_cpu else COMPILED),
    )
    for runtime, precisions in kinds:
        for precision in precisions:
            artefact = Artefact(Servable("torch", target, precision, weights="none"))
            found.append(Configuration(subject, runtime, artefact, {"device": "cpu"} if on_cpu else {}))
    return subject, found


def exported(
    model: str, device: str, plugins: PluginRegistry, deadline: Deadline, stack: ExitStack
) -> list[Configuration]:
    """The same model as files, for the runtimes other than torch that work here; empty if time is short or it fails."""
    runtimes = Runtimes(plugins)
    wanted = ("onnxruntime-cpu",) if device == "cpu" else ("onnxruntime-cuda", "tensorrt")
    working = {}
    for name in wanted:
        there = runtimes.get(name).availability()
        if there.works:
            working[name] = runtimes.get(name)
        else:
            deadline.dropped.append(f"{model} in {name}: {there.detail}")
    if not working or not deadline.has(2 * MIN_S, f"{model} in {', '.join(working)}"):
        return []
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="distillkit-"))) / model
    options = ExportOptions(trt="tensorrt" in working, fp32=True, fp16=device != "cpu", weights="none")
    try:
        made = export(f"timm:{model}", folder, options, plugins=plugins)
        subject = bundle_subject(open_bundle(made.directory), model)
    except DistillkitError as error:
        deadline.dropped.append(f"{model} as files: {error}")
        return []
    found = []
    for artefact in subject.artefacts:
        for name, runtime in working.items():
            if artefact.servable.format in runtime.formats:
                found.append(Configuration(subject, name, artefact, runtime.settings()[0]))
    return found


def profile(
    model: str, arguments: argparse.Namespace, plugins: PluginRegistry, deadline: Deadline, here: MachineCard
) -> ProfileCard | None:
    """Profile one model as far as time allows."""
    if not deadline.has(MIN_S, model):
        return None
    plan = MeasurementPlan(tuple(arguments.batches), (), arguments.seconds, arguments.rounds, warm_up_s=1.0)
    with ExitStack() as stack:
        subject, chosen = in_memory(model, arguments.device, plugins)
        chosen += exported(model, arguments.device, plugins, deadline, stack)
        benchmark = InterleavedBenchmark(chosen, plan, baseline=chosen[0].name, observer=deadline)
        try:
            with benchmark:
                for batch in arguments.batches:
                    compiled = batch in COMPILED_BATCHES
                    names = [each.name for each in chosen if compiled or each.runtime != "torch-compile"]
                    benchmark.add(batch, names)
        except OutOfTimeError as error:
            deadline.dropped.append(f"{model}: out of time at {error}")
        benchmark.batches = sorted({row.batch for row in benchmark.rows})
        return card_of(benchmark, here, [subject]) if benchmark.rows else None


def page(cards: Sequence[ProfileCard], dropped: Sequence[str], *, gpu: bool) -> Iterator[str]:
    """The report as Markdown."""
    if cards:
        first = cards[0]
        versions = ", ".join(f"{name} {number}" for name, number in first.machine.software.items())
        where = "the GPU" if gpu else "the CPU"
        yield f"Measured {first.made} on {where} of {machine_line(first.machine)}; {versions}."
        yield ""
        yield "The weights are random: the figures show speed, not accuracy."
        yield from ["", *(f"*{mode}*: {text}." for mode, text in first.method.modes.items())]
    for card in cards:
        yield from ["", f"## {card.subjects[0].name}", ""]
        yield "| batch | mode | configuration | p50 ms | p99 ms | images/s | ratio (95 %) | GPU MiB | J/image |"
        yield "| ---: | --- | --- | ---: | ---: | ---: | --- | ---: | ---: |"
        for row in sorted(card.rows, key=lambda row: (row.batch, row.mode)):
            name = short(card, row.configuration)
            if row.failed or row.p50_ms is None:
                yield f"| {row.batch} | {row.mode} | {name} | {row.failed} |" + " |" * 5
                continue
            memory = "" if row.device_bytes is None else f"{row.device_bytes / 2**20:.0f}"
            energy = "" if row.joules_per_image is None else f"{row.joules_per_image:.3g}"
            yield (
                f"| {row.batch} | {row.mode} | {name} | {row.p50_ms:.3f}{'*' if row.caveats else ''} "
                f"| {row.p99_ms:.3f} | {row.images_per_s:,.0f} | {ratio_text(row.ratio)} | {memory} | {energy} |"
            )
        yield ""
        yield from (f"\\* {line}\n" for line in caveat_lines(card))
    if dropped:
        yield from ["", "## Not measured", "", *(f"- {line}" for line in dropped)]


def main() -> None:
    """Measure model by model until the time is up, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--model", dest="models", action="append", metavar="NAME", help="a timm model; may be repeated")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    deadline = Deadline(time.monotonic() + 60 * arguments.minutes)
    plugins, here = installed_plugins(), machine()  # before our own measurements load the machine
    cards: list[ProfileCard] = []
    for model in arguments.models or MODELS:
        card = profile(model, arguments, plugins, deadline, here)
        if card is not None:
            cards.append(card)
            write(cards, deadline.dropped, arguments.out, gpu=arguments.device == "cuda")
    print("\n".join(page(cards, deadline.dropped, gpu=arguments.device == "cuda")))
    write(cards, deadline.dropped, arguments.out, gpu=arguments.device == "cuda")


def write(cards: Sequence[ProfileCard], dropped: Sequence[str], out: Path | None, *, gpu: bool) -> None:
    """Write `gpu-<name of the GPU>.json` and `.md`, or `cpu-<name of the CPU>` with --device cpu."""
    if out is None or not cards:
        return
    gpus = cards[0].machine.gpus
    name = gpus[0].name if gpu and gpus else cards[0].machine.processor
    stem = ("gpu-" if gpu else "cpu-") + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    found = {"profiles": [card.model_dump(mode="json") for card in cards], "not_measured": list(dropped)}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (out / f"{stem}.md").write_text("\n".join(page(cards, dropped, gpu=gpu)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
