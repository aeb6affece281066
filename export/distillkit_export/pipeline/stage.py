"""Loop over formats and precisions: write a file, verify its precision, gate it, record the result."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillkit.compute.busy_machine import busy_machine
from distillkit.compute.cpus import usable_cpus
from distillkit.contracts.exporter import Artifact
from distillkit.errors import GateError, MissingExtraError, UnavailableError
from distillkit.plugin.error_attribution import blamed, kind_of, refuse
from distillkit_export.bundle.manifest import REJECTED, ArtifactCard, PendingCard
from distillkit_export.gate.checks import checks
from distillkit_export.gate.gate import Gate, Verdict, size
from distillkit_export.gate.relative_latency import relative_latency

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Exporter, ExportSource, Precision
    from distillkit_export.pipeline.formats import Format

COMPARED = ".compared"
"""Temporary folder for files that are written only for comparison."""


@dataclass
class Stage:
    """State of one export in `folder`: verdicts on the files written so far, and files that cannot be made here.

    `load_before` is the load average before the export, which itself keeps the machine busy.
    """

    folder: Path
    source: ExportSource
    gate: Gate
    onnx: dict[Precision, Path]
    verdicts: list[Verdict] = field(default_factory=list)
    pending: list[PendingCard] = field(default_factory=list)
    load_before: float | None = None

    def make_onnx(self, form: Format, precisions: Sequence[Precision]) -> None:
        """Write ONNX files, float32 first, because all others are made from it.

        Raises: GateError if float32 fails the gate; whatever the exporter raises.
        """
        first = self._write_and_gate(form, "fp32", self.folder)
        if first.outcome == "failed":
            self.verdicts.append(first)
            raise GateError(first.failure)
        for precision in precisions:
            if precision != "fp32":
                self._write_and_gate(form, precision, self.folder)

    def make_for_comparison(self, form: Format, precision: Precision) -> None:
        """Write ONNX in a precision that is not exported, only for its row in the report."""
        (self.folder / COMPARED).mkdir()
        self._write_and_gate(form, precision, self.folder / COMPARED, kept=False)

    def make(self, form: Format, precision: Precision) -> None:
        """Write another format; if this machine cannot, record it as pending with the command for the target."""
        failed = [verdict for verdict in self.verdicts if verdict.outcome == "failed"]
        if any(verdict.artifact.precision == precision for verdict in failed if verdict.artifact.format == "onnx"):
            return  # it would be made from a rejected ONNX file
        try:
            form.exporter.check()
            self._write_and_gate(form, precision, self.folder)
        except (UnavailableError, MissingExtraError) as error:
            command, options = form.command(precision), form.options.model_dump(mode="json")
            self.pending.append(
                PendingCard(format=form.name, precision=precision, reason=str(error), command=command, options=options)
            )

    def finish(self) -> None:
        """Measure relative latencies, move failed files to `rejected/` and delete files made for comparison."""
        self._measure_latency()
        shutil.rmtree(self.folder / COMPARED, ignore_errors=True)
        for verdict in self.verdicts:
            if verdict.outcome == "failed" and verdict.kept:
                for file in (verdict.artifact.file, *verdict.artifact.companions):
                    rejected = self.folder / REJECTED / file
                    rejected.parent.mkdir(parents=True, exist_ok=True)
                    (self.folder / file).rename(rejected)

    def cards(self) -> list[ArtifactCard]:
        """Manifest entries of the files that are part of the bundle."""
        return [card_of(verdict) for verdict in self.verdicts if verdict.kept and verdict.outcome != "failed"]

    def _write_and_gate(self, form: Format, precision: Precision, folder: Path, *, kept: bool = True) -> Verdict:
        with blamed(form.exporter, "write"):
            artifact = form.exporter.write(self.source, folder, precision)
        if not isinstance(artifact, Artifact):
            refuse(form.exporter, "write", kind_of(artifact), "an Artifact")
        # Read back from the file, because a tool may silently write another precision than the requested one.
        mismatch = _precision_mismatch(form.exporter, folder / artifact.file, precision)
        if mismatch:
            file_bytes = size(folder / artifact.file)
            verdict = Verdict(artifact, "failed", form.exporter.runtime, file_bytes, reason=mismatch)
        else:
            checked = checks(self.source, folder, artifact, self.gate.reference, self.gate.limits[precision])
            verdict = self.gate.judge(artifact, form.exporter, folder, checked)
        self.verdicts.append(replace(verdict, kept=kept))
        if artifact.format == "onnx" and verdict.outcome != "failed" and kept:
            self.onnx[precision] = folder / artifact.file
        return verdict

    def _measure_latency(self) -> None:
        """Measure the latency of ONNX files that run here, relative to the first; nothing to do for a single file."""
        from distillkit_export.onnx.session import OnnxSession

        # One thread each: idle threads of one session spin and would take cores from the next.
        sessions = {
            each.artifact.file: OnnxSession(self._path(each), threads=1)
            for each in self.verdicts
            if each.artifact.format == "onnx" and each.parity is not None
        }
        if len(sessions) < 2:
            return
        times = relative_latency(sessions, self.gate.reference.images.pixels[np.array([0])])
        caveats = busy_machine(self.load_before, usable_cpus())
        self.verdicts = [
            replace(each, relative_latency=times[each.artifact.file], latency_caveats=caveats)
            if each.artifact.file in times
            else each
            for each in self.verdicts
        ]

    def _path(self, verdict: Verdict) -> Path:
        return (self.folder if verdict.kept else self.folder / COMPARED) / verdict.artifact.file


def _precision_mismatch(exporter: Exporter, file: Path, precision: Precision) -> str:
    """How the precision in a written file differs from the requested one; "" if it does not."""
    try:
        actual = exporter.precision_of(file)
    except GateError as error:
        return f"was refused: {error}"
    return "" if actual == precision else f"is {actual}, but {precision} was requested"


def card_of(verdict: Verdict) -> ArtifactCard:
    """The manifest entry of a file."""
    artifact, passed = verdict.artifact, verdict.outcome == "passed"
    return ArtifactCard(
        format=artifact.format,
        file=artifact.file,
        precision=artifact.precision,
        gate="passed" if passed else "ungated",
        runtime=verdict.runtime if passed else None,
        reason=None if passed else verdict.reason,
        made_with=dict(artifact.made_with),
    )
