"""Training speed on this GPU: DeiT-Ti, -S and -B taught by RegNetY-16GF, live and with a bank, next to timm.

For every student `distillkit bench` runs twice, without and with torch.compile. The table has images per second, and
the share of the chip's bf16 peak that the arithmetic of an arm reaches: a student's step counts as three forwards, a
teacher as one. The peak is the fastest matrix product in bf16 that this script measures, or `--peak` in TFLOP/s; on a
CPU without bf16 instructions it is measured in float32.
The call has a deadline: what does not fit is dropped, and the report lists it.

    python benchmarks/gpu_training.py [--minutes 9] [--out docs/benchmarks] [--peak TFLOPS]
    python benchmarks/gpu_training.py --device cpu --teacher timm:test_resnet --image-size 32 --batch 4
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distillkit.benchmark.bench import bench
from distillkit.benchmark.matmul_rate import matmul_rate
from distillkit.benchmark.settings import BenchSettings
from distillkit.errors import DistillkitError
from distillkit.plugin.registry import installed_plugins

STUDENTS = ("deit-ti", "deit-s", "deit-b")
ARMS = ("student", "live", "bank", "timm", "timm-bf16")
LEAST_S, LEAST_COMPILED_S = 25.0, 90.0
"""A benchmark is not started with less time left than this; compiling takes a minute."""


def figures(found: Mapping[str, Any], peak: float) -> Iterator[dict[str, Any]]:
    """Images per second of every arm of a benchmark (`BenchResult.as_dict`), and its share of the peak in FLOP/s."""
    for arm in found["arms"]:
        yield {
            "student": found["student"],
            "compile": found["compile"],
            "teacher_form": found["teacher_form"],
            "arm": arm["arm"],
            "images_per_s": arm["images_per_s"],
            "share_of_peak": arm["images_per_s"] * arm["gflop_per_image"] * 1e9 / peak,
            "step_bytes": arm["step_bytes"],
        }


def page(rows: Sequence[Mapping[str, Any]], dropped: Sequence[str], peak: float) -> Iterator[str]:
    """The report as Markdown."""
    yield f"Share of a peak of {peak / 1e12:.3g} TFLOP/s. Random weights, batches in memory."
    yield from [
        "",
        "| student | compiled | arm | images/s | share of peak | step MiB |",
        "| --- " * 3 + "| ---: " * 3 + "|",
    ]
    for row in rows:
        memory = "" if row["step_bytes"] is None else f"{row['step_bytes'] / 2**20:,.0f}"
        compiled = "yes" if row["compile"] and not row["arm"].startswith("timm") else "no"
        yield (
            f"| {row['student']} | {compiled} | {row['arm']} | {row['images_per_s']:,.0f} "
            f"| {row['share_of_peak']:.1%} | {memory} |"
        )
    if dropped:
        yield from ["", "Not measured:", "", *(f"- {line}" for line in dropped)]


def main() -> None:
    """Measure student by student until the time is up, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--teacher", default="regnety16gf")
    parser.add_argument("--student", dest="students", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="the data sheet's figure without sparsity")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ends, device, plugins = (
        time.monotonic() + 60 * arguments.minutes,
        torch.device(arguments.device),
        installed_plugins(),
    )
    peak = 1e12 * arguments.peak if arguments.peak else matmul_rate(device, 5.0)
    on_cuda = device.type == "cuda"
    planned = [(student, compiled) for compiled in (False, True) for student in arguments.students or STUDENTS]
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    dropped: list[str] = []
    for number, (student, compiled) in enumerate(planned):
        name, left = f"{student}{', compiled' if compiled else ''}", ends - time.monotonic()
        if left < (LEAST_COMPILED_S if compiled else LEAST_S):
            dropped.append(f"{name}: {max(left, 0):.0f} s were left")
            continue
        print(f"{left:4.0f} s left: {name}", file=sys.stderr)
        settings = BenchSettings(
            teacher=arguments.teacher,
            student=student,
            batch=arguments.batch,
            precision="bf16" if on_cuda else "fp32",
            image_size=arguments.image_size,
            device=arguments.device,
            arms=ARMS[:3] if compiled else ARMS,  # timm's are not compiled, and so no other than without it
            minutes=0.8 * left / (len(planned) - number) / 60,
            compile=compiled,
        )
        try:
            result = bench(settings, plugins, lambda *_: None)
        except DistillkitError as error:
            dropped.append(f"{name}: {error}")
            continue
        results.append(result.as_dict())
        rows += figures(results[-1], peak)
        dropped += [f"{name}, {arm}: {reason}" for arm, reason in result.skipped.items()]
        write(arguments.out, results, rows, dropped, peak)
    print("\n".join(page(rows, dropped, peak)))
    write(arguments.out, results, rows, dropped, peak)


def write(
    out: Path | None,
    results: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    dropped: Sequence[str],
    peak: float,
) -> None:
    """Write `training-<name of the chip>.json` and `.md`, if there are results and a folder."""
    if out is None or not results:
        return
    machine = results[0]["machine"]
    chip = machine["gpus"][0]["name"] if machine["gpus"] else machine["processor"]
    stem = "training-" + re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")
    found = {"peak_flops_per_s": peak, "rows": list(rows), "not_measured": list(dropped), "benchmarks": list(results)}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (out / f"{stem}.md").write_text("\n".join(page(rows, dropped, peak)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
