"""Reports of the gate: the table in the terminal, `parity.md` and `parity.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit.compute.busy_machine import CAVEAT_MARK
from distillkit.messages.text import counted, markdown_text
from distillkit.storage.atomic import write_json, write_text
from distillkit.storage.untrusted import read_json, read_plain_text
from distillkit_export.bundle.manifest import PARITY

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Precision
    from distillkit_export.gate.gate import Verdict
    from distillkit_export.gate.limits import Limits
    from distillkit_export.gate.parity import Parity, Reference

PARITY_PAGE = "parity.md"
PARITY_SCHEMA: Literal[2] = 2
LARGEST_PAGE = 2**24
"""Size limit in bytes of a page that is extended."""
SLOWER = 1.05
"""Smallest latency ratio that is reported as slower; smaller differences are within measurement noise."""
FIGURES = ("max abs", "max rel", "min cosine", "SQNR dB")


def write_report(folder: Path, verdicts: Sequence[Verdict], reference: Reference) -> None:
    """Write `parity.json` and `parity.md`."""
    write_json(folder / PARITY, as_data(verdicts, reference))
    write_text(folder / PARITY_PAGE, page(verdicts, reference))


def extend_report(folder: Path, verdicts: Sequence[Verdict], reference: Reference) -> None:
    """Add the results of new files to the `parity.json` and `parity.md` of a bundle."""
    earlier = read_json(folder / PARITY)
    write_json(folder / PARITY, earlier | {"files": earlier["files"] | as_data(verdicts, reference)["files"]})
    # The page only explains, so the user may have changed or deleted it.
    written = folder / PARITY_PAGE
    before = ""
    if written.is_file() and not written.is_symlink():
        with suppress(ValueError):  # not text any more
            before = f"{read_plain_text(written, largest=LARGEST_PAGE)}\n"
    write_text(written, before + page(verdicts, reference))


def as_data(verdicts: Sequence[Verdict], reference: Reference) -> dict[str, Any]:
    """The content of `parity.json`."""
    images = reference.images
    return {
        "schema_version": PARITY_SCHEMA,
        "reference": reference.name,
        "images": {"source": images.source, "count": len(images.pixels), "weak": images.weak},
        "files": {verdict.artifact.file: verdict.as_dict() for verdict in verdicts},
    }


def table(verdicts: Sequence[Verdict], *, classes: bool) -> list[list[str]]:
    """A header row, then one row per file."""
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
        row += [_latency(verdict)] if timed else []
        rows.append([*row, verdict.outcome if verdict.kept else f"{verdict.outcome}, not kept"])
    return rows


def lines(verdicts: Sequence[Verdict], reference: Reference) -> list[str]:
    """Lines for the terminal: the table, then the notes."""
    rows = table(verdicts, classes=reference.classes)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    shown = []
    for row in rows:
        cells = [
            text.ljust(width) if column in {0, last} else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
    return [*shown, *notes(verdicts, reference)]


def notes(verdicts: Sequence[Verdict], reference: Reference) -> list[str]:
    """Notes below the table: the reference and images, weak images, weights stored in float32 and slower files."""
    images = reference.images
    weak = "; weak check: give real images with --data" if images.weak else ""
    count = counted(len(images.pixels), "image")
    shown = [f"measured against {reference.name} on {count} ({images.source}){weak}"]
    shown += [note for note in (reference.note, images.note) if note]
    slower = [
        f"{verdict.artifact.file} takes {verdict.relative_latency:.2f} times as long as {verdicts[0].artifact.file}"
        for verdict in verdicts
        if verdict.relative_latency is not None and verdict.relative_latency >= SLOWER
    ]
    shown += [
        f"{verdict.artifact.file} stores its weights as float32 behind Q/DQ pairs, so it is no smaller than model.onnx"
        for verdict in verdicts
        if _has_float_weights(verdict)
    ]
    caveats = dict.fromkeys(caveat for verdict in verdicts for caveat in verdict.latency_caveats)
    shown += [f"{CAVEAT_MARK} {caveat}" for caveat in caveats]
    if slower:
        where = "slower in ONNX Runtime on one thread of this CPU"
        shown.append(f"{where}: {'; '.join(slower)}; measure on the target with distillkit profile")
    return shown


def _has_float_weights(verdict: Verdict) -> bool:
    """Whether a quantised ONNX file stores float32 weights: by option, or because a version before the key wrote it."""
    artifact = verdict.artifact
    quantized = artifact.format == "onnx" and artifact.precision in {"int8", "fp8"}
    return quantized and artifact.made_with.get("weights", "fp32") == "fp32"


def page(verdicts: Sequence[Verdict], reference: Reference) -> str:
    """The content of `parity.md`."""
    heading, *rows = table(verdicts, classes=reference.classes)
    alignment = ["---", *("---:" for _ in heading[1:-1]), "---"]
    text = ["# Parity", "", *map(markdown_text, notes(verdicts, reference)), ""]
    text += ["| " + " | ".join(map(markdown_text, row)) + " |" for row in (heading, alignment, *rows)]
    text += ["", "## Limits", "", *_limit_rows(verdicts)]
    checked = [verdict for verdict in verdicts if verdict.checks or verdict.reason]
    if checked:
        text += ["", "## Other checks", ""]
    for verdict in checked:
        text += [markdown_text(f"- {verdict.artifact.file} {check.finding} ({check.name})") for check in verdict.checks]
        text += [markdown_text(f"- {verdict.failure}")] if verdict.reason else []
    return "\n".join(text) + "\n"


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


def _latency(verdict: Verdict) -> str:
    if verdict.relative_latency is None:
        return "-"
    return f"{verdict.relative_latency:.2f}x{CAVEAT_MARK if verdict.latency_caveats else ''}"


def _agreement(parity: Parity | None) -> str:
    if parity is None or parity.overall.top1_agreement is None:
        return "-"
    return f"{parity.overall.top1_agreement:.1%}"


def _accuracy(parity: Parity | None) -> str:
    """Top-1 accuracy in percent, with the difference from the model's and its standard error if there is one."""
    scored = None if parity is None else parity.accuracy
    if scored is None:
        return "-"
    if not scored.lost and not scored.gained:
        return f"{scored.file:.1f} %"
    return f"{scored.file:.1f} % ({0 - scored.drop:+.1f} ± {scored.drop_error:.1f})"
