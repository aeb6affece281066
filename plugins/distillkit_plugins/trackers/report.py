"""report.md and report.html: settings, accuracy, curves and incidents of a finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from statistics import median
from typing import Any

from distillkit import RunInfo, RunModels, read_metrics
from distillkit.pages import (
    Bullets,
    Code,
    Listing,
    Page,
    PageBlock,
    PageTable,
    PageText,
    Paragraph,
    Section,
    Strong,
    TableRow,
    as_html,
    as_markdown,
)
from distillkit_plugins.trackers.attention_section import attention_section
from distillkit_plugins.trackers.curves import FILE, HEADS, draw_curves, line_charts, term_name
from distillkit_plugins.trackers.gradient_norms_section import Steps, gradient_norms_table, measured_steps
from distillkit_plugins.trackers.incidents_section import incidents_section

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
EVALUATE, EXPORT = "distillkit evaluate <this directory>\n", "distillkit export <this directory>"
FILES = ("The resolved recipe is ", Code("recipe.toml"), "; ", Code("environment.json"), " has the versions.")


class Report:
    """Tracker that writes report.md, report.html and their figures when the run ends."""

    def distillkit_run_ended(self, run: RunInfo, record: Mapping[str, float], models: RunModels) -> None:
        """Draw the curves and the attention, and write the report. A page that cannot be written fails no run."""
        records = read_metrics(run.directory)
        steps = [entry for entry in records if entry["kind"] == "steps"]
        epochs = [entry for entry in records if entry["kind"] == "epoch"]
        if steps:
            content = BytesIO()
            draw_curves(content, steps, epochs)
            run.write(FILE, content.getvalue())
        page = report_page(run, record, (steps, epochs), attention_section(run, models))
        run.write("report.md", as_markdown(page))
        with suppress(OSError):  # report.md has the same content
            run.write("report.html", as_html(page))


def report_page(
    run: RunInfo, record: Mapping[str, float], curves: tuple[Steps, Steps], attention: Sequence[PageBlock]
) -> Page:
    """The content of the report; `curves` are the records of steps and of epochs."""
    plan, (steps, epochs) = run.plan, curves
    teachers = (
        f" distilled from {', '.join(teacher['name'] for teacher in plan['teachers'])}" if plan["teachers"] else ""
    )
    sections = [
        Section("Results", tuple(_results(record))),
        Section("Curves", tuple(_curves(steps, epochs))),
        Section("Gradient norms", tuple(_gradient_norms(steps))),
        Section("Attention", tuple(attention)),
        Section("Models", tuple(_models(plan))),
        Section("Incidents", tuple(incidents_section(run.incidents)) if run.incidents else ()),
        Section("Notes", (Bullets(tuple(plan["notes"])),) if plan["notes"] else ()),
        Section("Run", (_run_table(run, steps),)),
        Section("Next", tuple(_next(record))),
    ]
    return Page(
        plan["student"]["name"] + teachers,
        (Paragraph(_summary(run)),),
        tuple(section for section in sections if section.blocks),
    )


def _summary(run: RunInfo) -> PageText:
    data, steps = run.plan["data"], f"{run.steps:,} optimiser step{'' if run.steps == 1 else 's'}"
    images = f"{data['train']} ({data['images']:,} images, {data['labelled']:,} labelled)"
    return (Code(f"loss = {run.plan['loss']}"), f", {steps} of {run.plan['samples_per_step']:,} images on {images}.")


def _results(record: Mapping[str, float]) -> Iterator[PageBlock]:
    """The accuracy of every head on every split, and the best checkpoint."""
    splits = {split: title for split, title in SPLITS.items() if f"{split}/top1" in record}
    if not splits:
        yield Paragraph("No labelled validation or test images, so there is no accuracy to report.")
        return
    rows = []
    for figure, title in HEADS.items():
        if any(f"{split}/{figure}" in record for split in splits):
            # The fused figures and those of idle heads are missing on no split or on all.
            cells = (f"{record[f'{split}/{figure}']:.2f}" for split in splits)
            rows.append(TableRow((Strong(title) if figure == "top1" else title, *cells)))
    rows.append(TableRow(("images", *(f"{record[f'{split}/images']:,.0f}" for split in splits))))
    yield PageTable("", ("top-1 (%)", *splits.values()), tuple(rows), label="Accuracy")
    if "best/step" in record:
        best = f"{record['best/validation_top1']:.2f} % after step {record['best/step']:,.0f}"
        after = ". The table shows the student after the last step."
        yield Paragraph((f"Best on validation: {best}, kept in ", Code("best/"), after))


def _curves(steps: Steps, epochs: Steps) -> Iterator[PageBlock]:
    if not steps:
        return
    yield from line_charts(steps, epochs)
    rate, wait = (median(entry[key] for entry in steps) for key in ("images_per_s", "data_wait"))
    yield Paragraph(
        f"Throughput: {rate:,.0f} images/s (median over the log intervals). "
        f"Waiting for data: {100 * wait:.0f} % of the time."
    )


def _gradient_norms(steps: Steps) -> Iterator[PageBlock]:
    measured = measured_steps(steps)
    if measured:
        yield Paragraph(GRADIENT_NORMS)
        yield gradient_norms_table(measured)


def _models(plan: Mapping[str, Any]) -> Iterator[PageBlock]:
    """Student and teachers, what a teacher reached by itself, and the main settings."""
    student, cost = plan["student"], plan["cost"]
    weights = f"trained here, from {student['starts_from']}" if student["starts_from"] else "trained here"
    rows = [_model_row("student", student, student["image_size"], cost["student_gflop_per_image"], weights)]
    for teacher in plan["teachers"]:
        flops = cost["teacher_gflop_per_image"] if len(plan["teachers"]) == 1 else None
        rows.append(_model_row("teacher", teacher, teacher["sees"], flops, teacher["licence"] or "licence unknown"))
    headings = ("", "name", "parameters", "image size", "GFLOP per image", "weights")
    yield PageTable("", headings, tuple(rows), frozenset({1, 3, 5}), label="Models")
    yield from map(Paragraph, _teacher_accuracies(plan))
    shape = f"{student['layers']} layers" + (f", width {student['width']}" if student["width"] else "")
    shape += f", {student['heads']} heads" if student["heads"] else ""
    yield Paragraph(
        f"Student: {shape}, grid {'x'.join(map(str, student['grid'] or ['?']))}. Learning rate "
        f"{plan['learning_rate']:g}, seed {plan['seed']}, {plan['precision']} on {plan['device']}."
    )


def _model_row(role: str, model: Mapping[str, Any], size: Sequence[int], flops: float | None, weights: str) -> TableRow:
    shown = f"{flops:.3g}" if flops is not None else ""
    return TableRow((role, model["name"], f"{model['parameters']:,}", f"{size[0]}x{size[1]}", shown, weights))


def _teacher_accuracies(plan: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each teacher that was evaluated before the first step."""
    for teacher in plan["teachers"]:
        found = teacher.get("validation")  # not in plans of earlier versions
        if found is not None:
            others = "".join(f"; at {size}: {top1:.2f} %" for size, top1 in found["other_sizes"].items())
            size = "x".join(map(str, found["size"]))
            yield (
                f"Teacher {teacher['name']} before the first step, top-1 on {found['images']:,} "
                f"validation images as it sees them, at {size}: {found['top1']:.2f} %{others}."
            )


def _run_table(run: RunInfo, steps: Steps) -> PageTable:
    """When and how the run was started, how long it took, and its losses in the last log interval."""
    finished, rows = datetime.now(UTC), []
    facts: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):  # it may have been deleted or changed during the run
        facts = run.read_json("environment.json")
    with suppress(KeyError, ValueError, TypeError):  # runs of earlier versions have none
        started = datetime.fromisoformat(facts["started"])
        rows = [("command", str(facts["command"])), ("started", started.isoformat(timespec="seconds"))]
        rows.append(("duration", str(timedelta(seconds=round((finished - started).total_seconds())))))
    rows.append(("finished", finished.isoformat(timespec="seconds")))
    rows.append(("seed", str(run.plan["seed"])))
    last = steps[-1] if steps else {}
    rows += [(term_name(name), f"{last[name]:.4f}") for name in sorted(last) if name.startswith("loss")]
    return PageTable("", ("", ""), tuple(map(TableRow, rows)), frozenset({1}), label="The run")


def _next(record: Mapping[str, float]) -> Iterator[PageBlock]:
    measured = any(f"{split}/top1" in record for split in SPLITS)
    yield Listing(f"{EVALUATE * measured}{EXPORT}")
    yield Paragraph(FILES)
