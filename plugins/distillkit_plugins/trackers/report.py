"""report.md: settings, accuracy, curves and incidents of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from distillkit import RunInfo, RunModels, read_metrics
from distillkit_plugins.trackers.attention_section import attention_section
from distillkit_plugins.trackers.gradient_norms_section import draw_gradient_norms, gradient_norms_table, measured_steps
from distillkit_plugins.trackers.incidents_section import incidents_section

HEADS = {
    "class_top1": "class head",
    "distill_top1": "distillation head",
    "fused_logits_top1": "fused (mean of logits)",
    "fused_softmax_top1": "fused (sum of softmaxes)",
    "top1": "**student's prediction**",
}
SPLITS = {
    "validation": "validation",
    "test": "test",
    "validation/ema": "validation, EMA",
    "test/ema": "test, EMA",
}
GRADIENT_NORMS = (
    "Gradient of each loss term times its weight, with respect to the student's parameters: L2 norm, and share of the "
    "sum of the norms. Measured at the single step named, before clipping."
)
NEXT = """```
distillkit evaluate <this directory>
distillkit export <this directory>
```

The resolved recipe is `recipe.toml`; `environment.json` has the versions."""


class Report:
    """Tracker that writes report.md and its figures when the run ends."""

    def distillkit_run_ended(self, run: RunInfo, record: Mapping[str, float], models: RunModels) -> None:
        """Draw the curves and the attention, and write report.md."""
        records = read_metrics(run.directory)
        steps = [entry for entry in records if entry["kind"] == "steps"]
        epochs = [entry for entry in records if entry["kind"] == "epoch"]
        if steps:
            draw_curves(run.directory / "curves.png", steps, epochs)
        attention = attention_section(run.directory, run.plan, models)
        page = "\n\n".join(_sections(run, record, steps, attention)) + "\n"
        (run.directory / "report.md").write_text(page, encoding="utf-8")


def draw_curves(path: Path, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> None:
    """Plot loss terms (left), gradient norms (middle) and validation accuracy (right) over the optimiser steps."""
    # Not pyplot: it keeps figures in global state and may need a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = measured_steps(steps)
    accuracies = {label: points for name, label in HEADS.items() if name != "top1" and (points := _with(epochs, name))}
    panels = 1 + bool(measured) + bool(accuracies)
    figure = Figure(figsize=(5 * panels, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, *others = (figure.add_subplot(1, panels, index + 1) for index in range(panels))
    for name in sorted({key for entry in steps for key in entry if key.startswith("loss")}):
        shown = [entry for entry in steps if name in entry]
        left.plot(
            [entry["step"] for entry in shown],
            [entry[name] for entry in shown],
            label=_term(name),
            linewidth=2 if name == "loss" else 1.2,
        )
    left.set(xlabel="optimiser step", ylabel="loss")
    left.legend(frameon=False)
    if measured:
        draw_gradient_norms(others[0], measured)
    for label, points in accuracies.items():
        others[-1].plot([step for step, _ in points], [value for _, value in points], label=label)
        others[-1].set(xlabel="optimiser step", ylabel="validation top-1 (%)")
        others[-1].legend(frameon=False)
    for axes in (left, *others):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _with(epochs: Sequence[Mapping[str, Any]], figure: str) -> list[tuple[float, float]]:
    """(step, value) of every epoch in which a figure was measured."""
    key = f"validation/{figure}"
    return [(entry["step"], entry[key]) for entry in epochs if key in entry]


def _settings(plan: Mapping[str, Any]) -> str:
    student = plan["student"]
    shape = f"{student['layers']} layers" + (f", width {student['width']}" if student["width"] else "")
    shape += f", {student['heads']} heads" if student["heads"] else ""
    return (
        f"Student: {shape}, grid {'x'.join(map(str, student['grid'] or ['?']))}. Learning rate "
        f"{plan['learning_rate']:g}, seed {plan['seed']}, {plan['precision']} on {plan['device']}."
    )


def _term(name: str) -> str:
    """Legend label of a term: "loss/hard/hard" becomes "hard", and "loss", the sum, becomes "total"."""
    return "/".join(dict.fromkeys(name.split("/")[1:])) or "total"


def _sections(
    run: RunInfo, record: Mapping[str, float], steps: Sequence[Mapping[str, Any]], attention: Sequence[str]
) -> list[str]:
    """The paragraphs of the page, in order."""
    plan = run.plan
    teachers = (
        f" distilled from {', '.join(teacher['name'] for teacher in plan['teachers'])}" if plan["teachers"] else ""
    )
    data = plan["data"]
    sections = [
        f"# {plan['student']['name']}{teachers}",
        (
            f"`loss = {plan['loss']}`, {run.steps:,} optimiser step{'' if run.steps == 1 else 's'} of "
            f"{plan['samples_per_step']:,} images on "
            f"{data['train']} ({data['images']:,} images, {data['labelled']:,} labelled)."
        ),
        _accuracy_table(record),
    ]
    if "best/step" in record:
        sections.append(
            f"Best on validation: {record['best/validation_top1']:.2f} % after step {record['best/step']:,.0f}, kept "
            "in `best/`. The table shows the student after the last step."
        )
    if steps:
        rate, wait = (median(entry[key] for entry in steps) for key in ("images_per_s", "data_wait"))
        sections += [
            "![loss and accuracy over the run](curves.png)",
            (
                f"Throughput: {rate:,.0f} images/s (median over the log intervals). "
                f"Waiting for data: {100 * wait:.0f} % of the time."
            ),
        ]
    gradients = measured_steps(steps)
    if gradients:
        sections += ["## Gradient norms", GRADIENT_NORMS, gradient_norms_table(gradients)]
    sections += [*attention, "## Models", _model_table(plan), _settings(plan)]
    if run.incidents:
        sections += ["## Incidents", *incidents_section(run.incidents)]
    if plan["notes"]:
        sections += ["## Notes", "\n".join(f"- {note}" for note in plan["notes"])]
    measured = any(f"{split}/top1" in record for split in SPLITS)
    return [*sections, "## Next", NEXT if measured else NEXT.replace("distillkit evaluate <this directory>\n", "")]


def _accuracy_table(record: Mapping[str, float]) -> str:
    splits = {split: title for split, title in SPLITS.items() if f"{split}/top1" in record}
    if not splits:
        return "No labelled validation or test images, so there is no accuracy to report."
    rows = [f"| top-1 (%) | {' | '.join(splits.values())} |", f"| --- |{' ---: |' * len(splits)}"]
    for figure, title in HEADS.items():
        if any(f"{split}/{figure}" in record for split in splits):
            cells = [f"{record[f'{split}/{figure}']:.2f}" for split in splits]
            rows.append(f"| {title} | {' | '.join(cells)} |")
    counts = [f"{record[f'{split}/images']:,.0f}" for split in splits]
    rows.append(f"| images | {' | '.join(counts)} |")
    return "\n".join(rows)


def _model_table(plan: Mapping[str, Any]) -> str:
    rows = [
        "| | name | parameters | image size | GFLOP per image | weights |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    student = plan["student"]
    weights = f"trained here, from {student['starts_from']}" if student["starts_from"] else "trained here"
    rows.append(_model_row("student", student, student["image_size"], plan["cost"]["student_gflop_per_image"], weights))
    for teacher in plan["teachers"]:
        flops = plan["cost"]["teacher_gflop_per_image"] if len(plan["teachers"]) == 1 else None
        rows.append(_model_row("teacher", teacher, teacher["sees"], flops, teacher["licence"] or "licence unknown"))
    return "\n".join(rows)


def _model_row(role: str, model: Mapping[str, Any], size: Sequence[int], flops: float | None, weights: str) -> str:
    shown = f"{flops:.3g}" if flops is not None else ""
    return f"| {role} | {model['name']} | {model['parameters']:,} | {size[0]}x{size[1]} | {shown} | {weights} |"
