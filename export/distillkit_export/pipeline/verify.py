"""A bundle checked where it will serve: digests first, then the gate of every file in a runtime of this machine.

Needs neither torch nor onnx: the model's own answers are in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts.exporter import Artifact
from distillkit.contracts.runtime import Runtime, Servable
from distillkit.errors import GateError, UnavailableError
from distillkit.storage.atomic import write_json
from distillkit_export.bundle.manifest import MANIFEST, ArtifactCard
from distillkit_export.bundle.reader import OpenBundle, open_bundle
from distillkit_export.export_options import Tolerance
from distillkit_export.gate.gate import FileOpener, Gate, Verdict
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.gate.parity import Evidence, evidence
from distillkit_export.gate.report import lines
from distillkit_export.gate.samples import read_samples
from distillkit_export.images.labelled_folder import labelled_pictures

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Exporter, Scorer
    from distillkit.plugin.registry import PluginRegistry


@dataclass(frozen=True)
class Verification:
    """What became of every file of a bundle here. `recorded` were ungated and are now noted as passed.

    `on_data` is the same on labelled images of this machine, against the float32 file, where some were given.
    """

    folder: Path
    against: Evidence
    verdicts: tuple[Verdict, ...]
    recorded: tuple[str, ...] = ()
    data: Evidence | None = None
    on_data: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What a terminal shows."""
        shown = [f"{self.folder}: every file is the one that was exported", *lines(self.verdicts, self.against)]
        if self.data is not None:
            shown += ["", *lines(self.on_data, self.data)]
        shown += [
            f"{verdict.artifact.file} was ungated and has passed in {verdict.runtime}; {MANIFEST} says so now"
            for verdict in self.verdicts
            if verdict.artifact.file in self.recorded
        ]
        return [*shown, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The same as data, for --json."""
        return {
            "bundle": str(self.folder),
            "files": {verdict.artifact.file: verdict.as_dict() for verdict in self.verdicts},
            "data": {verdict.artifact.file: verdict.as_dict() for verdict in self.on_data},
            "recorded": list(self.recorded),
            "notes": list(self.notes),
        }

    def require(self) -> None:
        """Raise for what did not pass.

        Raises: GateError for files that failed; UnavailableError for files that nothing here executes.
        """
        every = (*self.verdicts, *self.on_data)
        failed = [verdict.failure for verdict in every if verdict.outcome == "failed"]
        if failed:
            raise GateError("; ".join(failed))
        ungated = [verdict.failure for verdict in self.verdicts if verdict.outcome == "ungated"]
        if ungated:
            raise UnavailableError("; ".join(ungated))


def verify(
    folder: Path,
    *,
    plugins: PluginRegistry,
    data: Path | None = None,
    images: int | None = 1000,
    tolerance: Tolerance = "default",
) -> Verification:
    """Check digests, hold every file against the stored answers, and measure accuracy on the labelled images in `data`.

    A file that was ungated and passes is noted as passed in `bundle.json`, with the runtime, where the folder can be
    written to. `images` of `data` are looked at, spread evenly; all where it is None.
    Raises: BundleError for a bundle that is torn, altered or unsafe; DataError for images that cannot be read.
    """
    opened = open_bundle(folder)
    bundle, limits = opened.manifest, TOLERANCES[tolerance]
    against = read_samples(opened)
    pictures = None if data is None else labelled_pictures(data, bundle.input, bundle.class_names, images)
    gate = Gate(against, limits, opened.path(opened.artifact()))
    judged = [_judged(card, opened, gate, plugins) for card in bundle.artifacts]
    verdicts = tuple(verdict for verdict, _ in judged)
    recorded, notes = _record(opened, verdicts)
    if pictures is None:
        return Verification(folder, against, verdicts, recorded, notes=notes)
    first, opener = judged[0]
    if opener is None or first.outcome != "passed":
        return Verification(folder, against, verdicts, recorded, notes=(*notes, "no accuracy without model.onnx"))
    name = f"{first.artifact.file}, {first.runtime}"
    on_images = evidence(opener.open(opened.path(first.artifact.file)), pictures, name, classes=against.classes)
    second = Gate(on_images, limits)
    measured = [
        second.judge(verdict.artifact, found, opened.folder)
        for verdict, found in judged
        if found is not None and verdict.outcome == "passed"
    ]
    return Verification(folder, against, verdicts, recorded, on_images, tuple(measured), notes)


def _judged(
    card: ArtifactCard, opened: OpenBundle, gate: Gate, plugins: PluginRegistry
) -> tuple[Verdict, FileOpener | None]:
    """The verdict of the first runtime that executes the file, and that runtime.

    A file that is not in the precision of its card has failed, whatever it answers.
    """
    artifact = Artifact(card.format, card.file, card.precision, card.made_with)
    misread = _misread(card, opened, plugins)
    if misread:
        return Verdict(artifact, "failed", "", opened.manifest.files[card.file].bytes, reason=misread), None
    reasons: list[Verdict] = []
    for opener in _openers(card, plugins):
        verdict = gate.judge(artifact, opener, opened.folder)
        if verdict.outcome != "ungated":
            return verdict, opener
        reasons.append(verdict)
    if reasons:
        return reasons[0], None
    reason = f"was not gated: nothing here executes format {card.format}"
    return Verdict(artifact, "ungated", "", opened.manifest.files[card.file].bytes, reason=reason), None


def _misread(card: ArtifactCard, opened: OpenBundle, plugins: PluginRegistry) -> str:
    """Why a file is not in the precision that its card has, as the file itself says; "" where it is.

    Also "" where nothing here can read it: then nothing here executes it either.
    """
    exporter = _exporter(card, plugins)
    if exporter is None:
        return ""
    try:
        found = exporter.precision_of(opened.path(card))
    except (UnavailableError, ImportError):
        return ""
    except GateError as error:
        return f"was refused: {error}"
    return "" if found == card.precision else f"is {found} although {MANIFEST} says {card.precision}"


def _exporter(card: ArtifactCard, plugins: PluginRegistry) -> Exporter | None:
    """The exporter of the file's format, where it is installed."""
    if card.format not in {plugin.spec.name for plugin in plugins.listing("exporter")}:
        return None
    plugin = plugins.find("exporter", card.format)
    exporter: Exporter = plugin.create(plugin.options({}))
    return exporter


def _openers(card: ArtifactCard, plugins: PluginRegistry) -> Iterator[FileOpener]:
    """The format's own exporter, then every runtime that works here and loads the format."""
    exporter = _exporter(card, plugins)
    if exporter is not None:
        yield exporter
    for plugin in plugins.listing("runtime"):
        runtime: Runtime = plugins.find("runtime", plugin.spec.name).create()
        if card.format in runtime.formats and runtime.availability().works:
            yield _InRuntime(runtime, card)


@dataclass(frozen=True)
class _InRuntime:
    """A runtime in its default setting as something that opens files of one kind."""

    served: Runtime
    card: ArtifactCard

    @property
    def runtime(self) -> str:
        return self.served.availability().detail

    def open(self, file: Path) -> Scorer:
        servable = Servable(self.card.format, str(file), self.card.precision)
        return self.served.open(servable, self.served.settings()[0])


def _record(opened: OpenBundle, verdicts: Sequence[Verdict]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Note in the manifest what was ungated and has passed: the files, and a sentence where it cannot be written."""
    bundle = opened.manifest
    passed = {verdict.artifact.file: verdict for verdict in verdicts if verdict.outcome == "passed"}
    news = [card.file for card in bundle.artifacts if card.gate == "ungated" and card.file in passed]
    if not news:
        return (), ()
    artifacts = tuple(
        card.model_copy(update={"gate": "passed", "runtime": passed[card.file].runtime, "reason": None})
        if card.file in news
        else card
        for card in bundle.artifacts
    )
    try:
        write_json(opened.folder / MANIFEST, bundle.model_copy(update={"artifacts": artifacts}).model_dump(mode="json"))
    except OSError as error:
        return (), (f"{', '.join(news)} passed, which could not be noted in {MANIFEST}: {error.strerror}",)
    return tuple(news), ()
