"""The demo: what distillation adds to 100 labels, on digits, in under two minutes.

A small CNN is trained on all labelled digits. Then the same small DeiT is trained on 100 labels alone, and on the same
100 labels with the teacher's soft or hard targets for the other images. The best student is exported and checked.

    make demo
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

LABELS = 100
STEPS = 360
HEADS = ("class", "distill", "fused_logits")
TITLES = {
    "teacher": "teacher (all labels)",
    "labels-only": f"{LABELS} labels only",
    "soft": f"{LABELS} labels + teacher, soft",
    "hard": f"{LABELS} labels + teacher, hard",
}


def distillkit(*arguments: str) -> None:
    """Run a verb as a user would, and print the command line."""
    shown = " ".join(arguments)
    Console().print(f"\n[bold]$ distillkit {shown}[/bold]", soft_wrap=True, highlight=False)
    subprocess.run([sys.executable, "-m", "distillkit_cli.main", *arguments], check=True)


def figures(run: Path) -> dict[str, float]:
    """The figures of a finished run, in percent."""
    found: dict[str, float] = json.loads((run / "result.json").read_text(encoding="utf-8"))["figures"]
    return found


def main() -> None:
    """Run the four steps and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="an empty folder; default: runs/demo, which is replaced")
    given = parser.parse_args().out
    out = given or Path("runs/demo")
    if given is None:
        shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    small = ("--student", "small-cnn", "--set", "student.image_size=8", "--epochs", "10")
    distillkit("run", "--loss", "ce", *small, "--out", str(out / "teacher"))
    teacher = ("--teacher", f"run:{out / 'teacher'}")
    few = ("--labels", str(LABELS), "--set", f"training.steps={STEPS}", "--set")
    # 100 labels alone are an epoch of one step; with the other images an epoch has 18. So all are evaluated every 36.
    distillkit("run", "--loss", "ce", *few, "training.evaluate_every=36", "--out", str(out / "labels-only"))
    for name, loss in (("soft", "soft:tau=2,lambda=0.9"), ("hard", "hard")):
        distillkit("run", *teacher, "--loss", loss, *few, "training.evaluate_every=2", "--out", str(out / name))
    distillkit("export", str(out / "soft"))
    draw(out)
    show(out, time.perf_counter() - start)


def draw(out: Path) -> None:
    """Plot the validation accuracy of the three students during training: comparison.png."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name in ("soft", "hard", "labels-only"):
        lines = (out / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [record for record in map(json.loads, lines) if "validation/top1" in record]
        epochs = [record for record in records if record["kind"] == "epoch"]
        axes.plot(
            [record["step"] for record in epochs], [record["validation/top1"] for record in epochs], label=TITLES[name]
        )
    axes.set(xlabel="optimiser step", ylabel="validation top-1 (%)", title="Distillation with 100 labels (digits)")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "comparison.png", dpi=120)


def show(out: Path, seconds: float) -> None:
    """Print the table of all runs on the test images."""
    table = Table(title=f"digits: {LABELS} labels, {STEPS} steps, test top-1 (%)")
    for column in ("run", "class head", "distillation head", "fused", "the answer"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, title in TITLES.items():
        found = figures(out / name)
        cells = [found.get(f"test/{head}_top1") for head in HEADS]
        table.add_row(title, *(f"{cell:.1f}" if cell is not None else "" for cell in (*cells, found["test/top1"])))
    console = Console()
    console.print()
    console.print(table)
    console.print(
        f"{seconds:.0f} seconds. The curves: {out}/comparison.png; a report per run: {out}/soft/report.md; "
        f"the ONNX file: {out}/soft/export/model.onnx",
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    main()
