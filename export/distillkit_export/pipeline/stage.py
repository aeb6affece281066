"""The loop over formats and precisions: write, read the precision back, gate, record."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillkit.contracts.exporter import Artifact
from distillkit.errors import GateError, MissingExtraError, UnavailableError
from distillkit.plugin.error_attribution import blamed, kind_of, refuse
from distillkit_export.bundle.manifest import HERE, REJECTED, ArtifactCard, PendingCard
from distillkit_export.gate.checks import checks
from distillkit_export.gate.gate import Gate, Verdict, size
from distillkit_export.gate.relative_latency import relative_latency

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Exporter, ExportSource, Precision
    from distillkit_export.pipeline.formats import Format

COMPARED = ".compared"


@dataclass
class Stage:
    """One export under way in `folder`. What it made so far is in `verdicts`, what it could not make in `pending`."""

    folder: Path
    source: ExportSource
    gate: Gate
    onnx: dict[Precision, Path]
    verdicts: list[Verdict] = field(default_factory=list)
    pending: list[PendingCard] = field(default_factory=list)

    def make_onnx(self, form: Format, precisions: Sequence[Precision]) -> None:
        """Write ONNX, float32 first, on which everything else rests.

        Raises: GateError where float32 fails its gate; whatever the exporter raises.
        """
        first = self._written(form, "fp32", self.folder)
        if first.outcome == "failed":
            self.verdicts.append(first)
            raise GateError(first.failure)
        for precision in precisions:
            if precision != "fp32":
                self._written(form, precision, self.folder)

    def compare_with(self, form: Format, precision: Precision) -> None:
        """Write ONNX in a precision that is not exported, for its row in the report alone."""
        (self.folder / COMPARED).mkdir()
        self._written(form, precision, self.folder / COMPARED, kept=False)

    def make(self, form: Format, precision: Precision) -> None:
        """Write another format, or note why it is pending on this machine and what finishes it on the target."""
        failed = [verdict for verdict in self.verdicts if verdict.outcome == "failed"]
        if any(verdict.artifact.precision == precision for verdict in failed if verdict.artifact.format == "onnx"):
            return  # what is made from a rejected file is rejected with it
        try:
            form.exporter.check()
            self._written(form, precision, self.folder)
        except (UnavailableError, MissingExtraError) as error:
            command = shlex.join(["distillkit", "export", HERE, *form.flags(precision)])
            options = form.options.model_dump(mode="json")
            self.pending.append(
                PendingCard(format=form.name, precision=precision, reason=str(error), command=command, options=options)
            )

    def finish(self) -> None:
        """Time the files against each other, and put aside what failed and what was for comparison alone."""
        self._time()
        shutil.rmtree(self.folder / COMPARED, ignore_errors=True)
        for verdict in self.verdicts:
            if verdict.outcome == "failed" and verdict.kept:
                for file in (verdict.artifact.file, *verdict.artifact.companions):
                    aside = self.folder / REJECTED / file
                    aside.parent.mkdir(parents=True, exist_ok=True)
                    (self.folder / file).rename(aside)

    def cards(self) -> list[ArtifactCard]:
        """The files that are part of the bundle."""
        return [card_of(verdict) for verdict in self.verdicts if verdict.kept and verdict.outcome != "failed"]

    def _written(self, form: Format, precision: Precision, folder: Path, *, kept: bool = True) -> Verdict:
        with blamed(form.exporter, "write"):
            artifact = form.exporter.write(self.source, folder, precision)
        if not isinstance(artifact, Artifact):
            refuse(form.exporter, "write", kind_of(artifact), "an Artifact")
        misread = _misread(form.exporter, folder / artifact.file, precision)
        if misread:
            written = size(folder / artifact.file)
            verdict = Verdict(artifact, "failed", form.exporter.runtime, written, reason=misread)
        else:
            beside = checks(self.source, folder, artifact, self.gate.against, self.gate.limits[precision])
            verdict = self.gate.judge(artifact, form.exporter, folder, beside)
        self.verdicts.append(replace(verdict, kept=kept))
        if artifact.format == "onnx" and verdict.outcome != "failed" and kept:
            self.onnx[precision] = folder / artifact.file
        return verdict

    def _time(self) -> None:
        """ONNX files that run here, against the first; of one alone there is nothing to compare."""
        from distillkit_export.onnx.session import OnnxSession

        # One thread each: the waiting threads of one session would take the cores from the next.
        sessions = {
            each.artifact.file: OnnxSession(self._place(each), threads=1)
            for each in self.verdicts
            if each.artifact.format == "onnx" and each.parity is not None
        }
        if len(sessions) < 2:
            return
        times = relative_latency(sessions, self.gate.against.pictures.pixels[np.array([0])])
        self.verdicts = [replace(each, relative_latency=times.get(each.artifact.file)) for each in self.verdicts]

    def _place(self, verdict: Verdict) -> Path:
        return (self.folder if verdict.kept else self.folder / COMPARED) / verdict.artifact.file


def _misread(exporter: Exporter, file: Path, precision: Precision) -> str:
    """Why a file is not in the precision asked for, as the file itself says; "" where it is."""
    try:
        delivered = exporter.precision_of(file)
    except GateError as error:
        return f"was refused: {error}"
    return "" if delivered == precision else f"is {delivered} although {precision} was asked for"


def card_of(verdict: Verdict) -> ArtifactCard:
    """One file for the manifest."""
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
