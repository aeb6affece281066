"""What an export made: its files, what is pending, and how well everything agrees with torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.contracts.exporter import Artifact
from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import counted
from distillkit_export.bundle.manifest import REJECTED, Bundle, PendingCard
from distillkit_export.gate.gate import Verdict
from distillkit_export.gate.parity import Evidence, Parity
from distillkit_export.gate.report import lines


@dataclass(frozen=True)
class ExportResult:
    """An export: its folder, the verdict on each file, what is pending, and the manifest."""

    directory: Path
    verdicts: tuple[Verdict, ...]
    pending: tuple[PendingCard, ...]
    against: Evidence
    bundle: Bundle

    @property
    def artifact(self) -> Artifact:
        """The first file, `model.onnx`."""
        return self.verdicts[0].artifact

    @property
    def parity(self) -> Parity:
        """How well the first file agrees."""
        parity = self.verdicts[0].parity
        if parity is None:
            raise UnavailableError(self.verdicts[0].failure)
        return parity

    @property
    def manifest(self) -> dict[str, Any]:
        """`bundle.json` as data."""
        return self.bundle.model_dump(mode="json")

    def lines(self) -> list[str]:
        """What a terminal shows."""
        output = self.bundle.output
        one = f"{output.head} head" if output.head else "embedding"
        answer = f"both heads fused by {output.fusion}" if output.fusion else one
        shape = " x ".join(str(size) for size in self.bundle.input.shape)
        count = counted(len(self.bundle.artifacts), "file")
        heading = f"{self.directory}: {count}, opset {self.bundle.opset}, {shape} images, {answer}"
        return [heading, *(lines(self.verdicts, self.against) if self.verdicts else ())]

    def as_dict(self) -> dict[str, Any]:
        """The same as data, for --json."""
        return {
            "directory": str(self.directory),
            "manifest": self.manifest,
            "parity": {verdict.artifact.file: verdict.as_dict() for verdict in self.verdicts},
        }

    def require(self) -> None:
        """Raise for files that failed or are missing; those that passed are there all the same.

        Raises: GateError for files that failed; UnavailableError for files that could not be gated or made here.
        """
        failed = [each.failure for each in self.verdicts if each.outcome == "failed" and each.kept]
        sentences = [*self._ungated(), *self._pending()]
        if failed:
            where = f"kept in '{self.directory / REJECTED}'; what passed is in '{self.directory}'"
            raise GateError("; ".join([*failed, where, *sentences]))
        if sentences:
            raise UnavailableError("; ".join(sentences))

    def _ungated(self) -> list[str]:
        ungated = [each.failure for each in self.verdicts if each.outcome == "ungated" and each.kept]
        return [*ungated, f"on a machine that executes it run: distillkit verify {self.directory}"] if ungated else []

    def _pending(self) -> list[str]:
        return [
            f"{each.format} {each.precision} is pending: {each.reason}; on the target run: "
            f"{each.command_for(self.directory)}"
            for each in self.pending
        ]
