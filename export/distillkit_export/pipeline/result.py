"""Result of an export: files with their gate results, pending files, and the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.contracts.exporter import Artifact
from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import command, counted
from distillkit_export.bundle.manifest import REJECTED, Bundle, PendingCard
from distillkit_export.gate.gate import Verdict
from distillkit_export.gate.parity import Parity, Reference
from distillkit_export.gate.report import lines


@dataclass(frozen=True)
class ExportResult:
    """Result of an export: folder, verdict on each file, pending files, reference of the gate, and manifest."""

    directory: Path
    verdicts: tuple[Verdict, ...]
    pending: tuple[PendingCard, ...]
    reference: Reference
    bundle: Bundle

    @property
    def artifact(self) -> Artifact:
        """The first file, `model.onnx`."""
        return self.verdicts[0].artifact

    @property
    def parity(self) -> Parity:
        """Parity metrics of the first file.

        Raises: UnavailableError if it was not gated.
        """
        parity = self.verdicts[0].parity
        if parity is None:
            raise UnavailableError(self.verdicts[0].failure)
        return parity

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of `bundle.json`."""
        return self.bundle.model_dump(mode="json")

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        output = self.bundle.output
        single = f"{output.head} head" if output.head else "embedding"
        shown = f"both heads fused by {output.fusion}" if output.fusion else single
        shape = " x ".join(str(size) for size in self.bundle.input.shape)
        count = counted(len(self.bundle.artifacts), "file")
        heading = f"{self.directory}: {count}, opset {self.bundle.opset}, {shape} images, {shown}"
        return [heading, *(lines(self.verdicts, self.reference) if self.verdicts else ())]

    def as_dict(self) -> dict[str, Any]:
        """The content of --json."""
        return {
            "directory": str(self.directory),
            "manifest": self.manifest,
            "parity": {verdict.artifact.file: verdict.as_dict() for verdict in self.verdicts},
        }

    def require(self) -> None:
        """Raise an error for files that failed or are missing; files that passed are kept in any case.

        Raises: GateError for files that failed; UnavailableError for files that could not be gated or made here.
        """
        failed = [each.failure for each in self.verdicts if each.outcome == "failed" and each.kept]
        sentences = [*self._ungated(), *self._pending()]
        if failed:
            where = f"kept in '{self.directory / REJECTED}'; files that passed are in '{self.directory}'"
            raise GateError("; ".join([*failed, where, *sentences]))
        if sentences:
            raise UnavailableError("; ".join(sentences))

    def _ungated(self) -> list[str]:
        ungated = [each.failure for each in self.verdicts if each.outcome == "ungated" and each.kept]
        verify = command("distillkit", "verify", self.directory)
        return [*ungated, f"on a machine that executes it run: {verify}"] if ungated else []

    def _pending(self) -> list[str]:
        return [
            f"{each.format} {each.precision} is pending: {each.reason}; on the target run: "
            f"{each.command_for(self.directory)}"
            for each in self.pending
        ]
