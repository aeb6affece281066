"""What the gate found, for people and for programs: a table, `parity.md` and `parity.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit.messages.text import counted
from distillkit.storage.atomic import write_json, write_text
from distillkit.storage.untrusted import read_json, read_plain_text

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Precision
    from distillkit_export.gate.gate import Verdict
    from distillkit_export.gate.limits import Limits
    from distillkit_export.gate.parity import Evidence, Parity

PARITY, PARITY_PAGE = "parity.json", "parity.md"
PARITY_SCHEMA: Literal[2] = 2
SLOWER = 1.05
"""From this ratio on a file is called slower; less is what one measurement differs from the next."""
INT8_SIZE = "INT8 weights are stored as float32 behind Q/DQ pairs, which TensorRT and OpenVINO fold"
FIGURES = ("max abs", "max rel", "min cosine", "SQNR dB")


def write_report(folder: Path, verdicts: Sequence[Verdict], against: Evidence) -> None:
    """Write `parity.json` and `parity.md`."""
    write_json(folder / PARITY, as_data(verdicts, against))
    write_text(folder / PARITY_PAGE, page(verdicts, against))


def extend_report(folder: Path, verdicts: Sequence[Verdict], against: Evidence) -> None:
    """Add files to the `parity.json` and `parity.md` of a bundle."""
    former = read_json(folder / PARITY)
    write_json(folder / PARITY, former | {"files": former["files"] | as_data(verdicts, against)["files"]})
    write_text(folder / PARITY_PAGE, f"{read_plain_text(folder / PARITY_PAGE)}\n{page(verdicts, against)}")


def as_data(verdicts: Sequence[Verdict], against: Evidence) -> dict[str, Any]:
    """`parity.json`."""
    pictures = against.pictures
    return {
        "schema_version": PARITY_SCHEMA,
        "reference": against.reference,
        "images": {"source": pictures.source, "count": len(pictures.pixels), "weak": pictures.weak},
        "files": {verdict.artifact.file: verdict.as_dict() for verdict in verdicts},
    }


def table(verdicts: Sequence[Verdict], *, classes: bool) -> list[list[str]]:
    """A heading, and one row a file."""
    labelled = any(verdict.parity is not None and verdict.parity.accuracy is not None for verdict in verdicts)
    timed = any(verdict.relative_latency is not None for verdict in verdicts)
    heading = ["file", "size", *FIGURES]
    heading += ["agreement"] if classes else []
    heading += ["accuracy"] if labelled else []
    heading += ["time"] if timed else []
    rows = [[*heading, "gate"]]
    for verdict in verdicts:
        row = [verdict.artifact.file, f"{verdict.bytes / 1e6:.3g} MB", *_differences(verdict.parity)]
        row += [_agreement(verdict.parity)] if classes else []
        row += [_accuracy(verdict.parity)] if labelled else []
        row += ["-" if verdict.relative_latency is None else f"{verdict.relative_latency:.2f}x"] if timed else []
        rows.append([*row, verdict.outcome if verdict.kept else f"{verdict.outcome}, not kept"])
    return rows


def lines(verdicts: Sequence[Verdict], against: Evidence) -> list[str]:
    """The table as a terminal shows it, and what it was measured on."""
    rows = table(verdicts, classes=against.classes)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    shown = []
    for row in rows:
        cells = [
            text.ljust(width) if column in {0, last} else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
    return [*shown, *sentences(verdicts, against)]


def sentences(verdicts: Sequence[Verdict], against: Evidence) -> list[str]:
    """What the figures were measured on, and what to know of them before a file ships."""
    pictures = against.pictures
    weak = "; weak: give real images with --data" if pictures.weak else ""
    count = counted(len(pictures.pixels), "image")
    notes = [f"measured against {against.reference} on {count} ({pictures.source}){weak}"]
    notes += [note for note in (against.note, pictures.note) if note]
    slower = [
        f"{verdict.artifact.file} takes {verdict.relative_latency:.2f} times as long as {verdicts[0].artifact.file}"
        for verdict in verdicts
        if verdict.relative_latency is not None and verdict.relative_latency >= SLOWER
    ]
    if _int8_is_larger(verdicts):
        notes.append(INT8_SIZE)
    if slower:
        where = "slower in ONNX Runtime on one thread of this CPU"
        notes.append(f"{where}: {'; '.join(slower)}; measure on the target with distillkit profile")
    return notes


def _int8_is_larger(verdicts: Sequence[Verdict]) -> bool:
    first = [verdict.bytes for verdict in verdicts if verdict.artifact.file == "model.onnx"]
    int8 = [each.bytes for each in verdicts if each.artifact.format == "onnx" and each.artifact.precision == "int8"]
    return bool(first and int8) and max(int8) >= first[0]


def page(verdicts: Sequence[Verdict], against: Evidence) -> str:
    """`parity.md`."""
    heading, *rows = table(verdicts, classes=against.classes)
    marks = ["---", *("---:" for _ in heading[1:-1]), "---"]
    parts = ["# Parity", "", *sentences(verdicts, against), ""]
    parts += ["| " + " | ".join(row) + " |" for row in (heading, marks, *rows)]
    parts += ["", "## Limits", "", *_limit_rows(verdicts)]
    checked = [verdict for verdict in verdicts if verdict.checks or verdict.reason]
    if checked:
        parts += ["", "## Beside the answers", ""]
    for verdict in checked:
        parts += [f"- {verdict.artifact.file} {check.finding} ({check.name})" for check in verdict.checks]
        parts += [f"- {verdict.failure}"] if verdict.reason else []
    return "\n".join(parts) + "\n"


def _limit_rows(verdicts: Sequence[Verdict]) -> list[str]:
    limits: Mapping[Precision, Limits] = {
        verdict.artifact.precision: verdict.parity.limits for verdict in verdicts if verdict.parity is not None
    }
    names = ("max_relative", "min_sqnr_db", "min_cosine", "min_agreement", "max_accuracy_drop")
    titles = ("precision", "max rel", "SQNR dB", "min cosine", "agreement", "accuracy lost, points")
    rows = [titles, ("---", *("---:" for _ in names))]
    for precision, limit in limits.items():
        values: dict[str, Any] = asdict(limit)
        rows.append((precision, *("-" if values[name] is None else f"{values[name]:g}" for name in names)))
    return ["| " + " | ".join(row) + " |" for row in rows]


def _differences(parity: Parity | None) -> list[str]:
    if parity is None:
        return ["-"] * len(FIGURES)
    found = parity.overall
    decibels = f"{found.sqnr_db:.1f}"
    return [f"{found.max_absolute:.1e}", f"{parity.max_relative:.1e}", f"{found.min_cosine:.7f}", decibels]


def _agreement(parity: Parity | None) -> str:
    if parity is None or parity.overall.top1_agreement is None:
        return "-"
    return f"{parity.overall.top1_agreement:.1%}"


def _accuracy(parity: Parity | None) -> str:
    """In percent, and what it differs from the model's by, with the standard error over the images."""
    scored = None if parity is None else parity.accuracy
    if scored is None:
        return "-"
    if not scored.lost and not scored.gained:
        return f"{scored.file:.1f} %"
    return f"{scored.file:.1f} % ({0 - scored.drop:+.1f} ± {scored.drop_error:.1f})"
