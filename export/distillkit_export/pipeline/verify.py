"""`verify`: check a bundle on the target machine, first its digests, then every file with the gate.

Needs neither torch nor onnx, because the model's outputs are stored in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts.exporter import Artifact
from distillkit.contracts.runtime import Runtime, Servable
from distillkit.errors import BundleError, GateError, UnavailableError
from distillkit.messages.text import one_line
from distillkit.plugin.error_attribution import blamed
from distillkit.storage.atomic import write_json
from distillkit.storage.atomic_directory import reserved
from distillkit.storage.lock import LockedError
from distillkit_export.bundle.manifest import MANIFEST, ArtifactCard
from distillkit_export.bundle.reader import OpenBundle, open_bundle, read_manifest
from distillkit_export.export_options import Tolerance
from distillkit_export.gate.gate import FileOpener, Gate, Verdict
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.gate.parity import Reference, reference_outputs
from distillkit_export.gate.report import lines
from distillkit_export.gate.samples import read_samples
from distillkit_export.images.labelled_folder import labelled_images

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Exporter, Scorer
    from distillkit.plugin.registry import PluginRegistry


@dataclass(frozen=True)
class Verification:
    """Result of `verify`: the verdict on every file of a bundle on this machine.

    `recorded` are files that were ungated and are now recorded as passed. `on_data` are the verdicts on the labelled
    images `data`, with the float32 file as reference; empty without `--data`. `changed` are files that only explain the
    bundle, such as predict.py, and are no longer as the export wrote them.
    """

    folder: Path
    reference: Reference
    verdicts: tuple[Verdict, ...]
    recorded: tuple[str, ...] = ()
    data: Reference | None = None
    on_data: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        every = "every file that is used" if self.changed else "every file"
        shown = [f"{self.folder}: {every} matches its SHA-256", *lines(self.verdicts, self.reference)]
        if self.data is not None:
            shown += ["", *lines(self.on_data, self.data)]
        shown += [
            f"{verdict.artifact.file} was ungated and has passed in {verdict.runtime}; recorded in {MANIFEST}"
            for verdict in self.verdicts
            if verdict.artifact.file in self.recorded
        ]
        return [*shown, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The content of --json."""
        return {
            "bundle": str(self.folder),
            "files": {verdict.artifact.file: verdict.as_dict() for verdict in self.verdicts},
            "data": {verdict.artifact.file: verdict.as_dict() for verdict in self.on_data},
            "recorded": list(self.recorded),
            "changed": list(self.changed),
            "notes": list(self.notes),
        }

    def require(self) -> None:
        """Raise an error for files that did not pass.

        Raises: GateError for files that failed; UnavailableError for files that no runtime here executes.
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
    """Check digests, gate every file with the stored outputs, and measure accuracy on the labelled images in `data`.

    An ungated file that passes is recorded as passed in `bundle.json`, with its runtime, if the folder is writable.
    `images` is the number of evenly spaced images of `data`; None for all.
    Raises: BundleError for a bundle that is truncated, altered or unsafe; DataError for unreadable images.
    """
    opened = open_bundle(folder)
    bundle, limits = opened.manifest, TOLERANCES[tolerance]
    reference = read_samples(opened)
    labelled = None if data is None else labelled_images(data, bundle.input, bundle.class_names, images)
    float32 = opened.artifact()  # the reference of all others, wherever the manifest lists it
    gate = Gate(reference, limits, opened.path(float32))
    cards = [float32, *(card for card in bundle.artifacts if card is not float32)]
    gated = [_gate_file(card, opened, gate, plugins) for card in cards]
    verdicts = tuple(verdict for verdict, _ in gated)
    recorded, notes = _record(opened, verdicts)
    changed = tuple(opened.changed_explanations())
    if changed:
        notes = (*notes, f"changed since the export, which changes no answer: {', '.join(changed)}")
    if labelled is None:
        return Verification(folder, reference, verdicts, recorded, notes=notes, changed=changed)
    first, opener = gated[0]  # the float32 file
    if opener is None or first.outcome != "passed":
        notes = (*notes, f"accuracy is not measured, because {float32.file} did not pass here")
        return Verification(folder, reference, verdicts, recorded, notes=notes, changed=changed)
    name = f"{first.artifact.file}, {first.runtime}"
    scorer = opener.open(opened.path(first.artifact.file))
    on_data = reference_outputs(scorer, labelled, name, classes=reference.classes)
    second = Gate(on_data, limits)
    measured = [
        second.judge(verdict.artifact, opener, opened.folder)
        for verdict, opener in gated
        if opener is not None and verdict.outcome == "passed"
    ]
    return Verification(folder, reference, verdicts, recorded, on_data, tuple(measured), notes, changed)


def _gate_file(
    card: ArtifactCard, opened: OpenBundle, gate: Gate, plugins: PluginRegistry
) -> tuple[Verdict, FileOpener | None]:
    """Gate a file in the first runtime that executes it; return the verdict and that runtime.

    A file whose precision differs from the manifest fails without being run.
    """
    artifact = Artifact(card.format, card.file, card.precision, card.made_with)
    # Before the gate: a float32 file under the name of an INT8 file would pass every limit.
    mismatch = _precision_mismatch(card, opened, plugins)
    if mismatch:
        return Verdict(artifact, "failed", "", opened.manifest.files[card.file].bytes, reason=mismatch), None
    ungated: list[Verdict] = []
    for opener in _openers(card, opened, plugins):
        verdict = gate.judge(artifact, opener, opened.folder)
        if verdict.outcome != "ungated":
            return verdict, opener
        ungated.append(verdict)
    if ungated:
        return ungated[0], None
    reason = f"was not gated: no runtime here executes format {card.format}"
    return Verdict(artifact, "ungated", "", opened.manifest.files[card.file].bytes, reason=reason), None


def _precision_mismatch(card: ArtifactCard, opened: OpenBundle, plugins: PluginRegistry) -> str:
    """How the precision in a file differs from the manifest; "" if it does not.

    Also "" if it cannot be read here: then no runtime here executes the file either.
    """
    exporter = _exporter(card, plugins)
    if exporter is None:
        return ""
    try:
        actual = exporter.precision_of(opened.path(card))
    except (UnavailableError, ImportError):
        return ""
    except GateError as error:
        return f"was refused: {error}"
    return "" if actual == card.precision else f"is {actual}, but {MANIFEST} says {card.precision}"


def _exporter(card: ArtifactCard, plugins: PluginRegistry) -> Exporter | None:
    """The exporter of the file's format; None if it is not installed."""
    if card.format not in {plugin.spec.name for plugin in plugins.listing("exporter")}:
        return None
    plugin = plugins.find("exporter", card.format)
    exporter: Exporter = plugin.create(plugin.options({}))
    return exporter


def _openers(card: ArtifactCard, opened: OpenBundle, plugins: PluginRegistry) -> Iterator[FileOpener]:
    """The exporter of the format, then every available runtime that loads the format."""
    exporter = _exporter(card, plugins)
    if exporter is not None:
        yield _ExporterOpener(exporter, opened.servable(card)) if hasattr(exporter, "open_checked") else exporter
    for plugin in plugins.listing("runtime"):
        runtime: Runtime = plugins.find("runtime", plugin.spec.name).create()
        if card.format in runtime.formats and runtime.availability().works:
            yield _RuntimeOpener(runtime, opened.servable(card))


@dataclass(frozen=True)
class _ExporterOpener:
    """Adapter from an exporter that loads the file that was checked, whatever its name leads to by now."""

    exporter: Any
    servable: Servable

    @property
    def runtime(self) -> str:
        return str(self.exporter.runtime)

    def open(self, file: Path) -> Scorer:
        with blamed(self.exporter, "open_checked"):
            scorer: Scorer = self.exporter.open_checked(replace(self.servable, source=str(file)))
        return scorer


@dataclass(frozen=True)
class _RuntimeOpener:
    """Adapter from a runtime in its default setting to `FileOpener`."""

    served: Runtime
    servable: Servable

    @property
    def runtime(self) -> str:
        return self.served.availability().detail

    def open(self, file: Path) -> Scorer:
        return self.served.open(replace(self.servable, source=str(file)), self.served.settings()[0])


def _record(opened: OpenBundle, verdicts: Sequence[Verdict]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Record ungated files that have passed in the manifest; return them, or a note if it cannot be written."""
    bundle = opened.manifest
    passed = {verdict.artifact.file: verdict for verdict in verdicts if verdict.outcome == "passed"}
    newly_passed = [card.file for card in bundle.artifacts if card.gate == "ungated" and card.file in passed]
    if not newly_passed:
        return (), ()
    artifacts = tuple(
        card.model_copy(update={"gate": "passed", "runtime": passed[card.file].runtime, "reason": None})
        if card.file in newly_passed
        else card
        for card in bundle.artifacts
    )
    try:
        with reserved(opened.folder.resolve()):
            # An export may have replaced the bundle during the verification, which takes minutes.
            changed = read_manifest(opened.folder) != bundle
            if not changed:
                recorded = bundle.model_copy(update={"artifacts": artifacts})
                write_json(opened.folder / MANIFEST, recorded.model_dump(mode="json"))
    except (OSError, LockedError, BundleError) as error:
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        return (), (f"{', '.join(newly_passed)} passed, but {MANIFEST} cannot be written: {why}",)
    if changed:
        return (), (f"{', '.join(newly_passed)} passed, but {MANIFEST} was changed meanwhile; verify it again",)
    return tuple(newly_passed), ()
