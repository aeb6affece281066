"""Targets of `distillkit profile`: bundle, run, model by name, earlier profile. Only runs and models need torch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from distillkit.contracts.runtime import Servable
from distillkit.contracts.student_directory import holds_student, run_of, student_directory
from distillkit.errors import DistillkitError, RunDirectoryError, UserError
from distillkit.plugin.extras import require
from distillkit.storage.atomic import sha256
from distillkit.storage.untrusted import parse_json, read_json
from distillkit_export.bundle.manifest import MANIFEST, PARITY, PROFILE, Bundle
from distillkit_export.bundle.reader import OpenBundle, open_bundle, read_manifest
from distillkit_export.bundle.student_of_bundle import default_folder, require_student
from distillkit_export.export_options import ExportOptions
from distillkit_export.pipeline.target_folder import require_exportable
from distillkit_export.profiling.configurations import Artefact, ProfiledStudent
from distillkit_export.profiling.schema import (
    AccuracyCard,
    ProfileCard,
    SubjectCard,
    read_profile,
)

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Precision
    from distillkit.plugin.registry import PluginRegistry

RESULT = "result.json"


@dataclass
class OpenTargets:
    """The opened targets of a command: subjects to measure, and earlier profiles to show.

    `notes` are for the user; `home` is the default output folder.
    """

    subjects: list[ProfiledStudent] = field(default_factory=list)
    profiles: list[ProfileCard] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    home: Path = Path("profiles")


def open_targets(
    targets: list[str], plugins: PluginRegistry, stack: ExitStack, weights: str | None = None
) -> OpenTargets:
    """Open every target. Temporary exports are deleted when `stack` closes.

    Raises: BundleError for an invalid bundle; RunDirectoryError for a target that does not exist; errors of reading a
    profile and of loading and exporting a model.
    """
    opened = OpenTargets()
    if weights is not None:
        _require_named_model(targets)
    for target in targets:
        path = Path(target)
        if path.is_file():
            opened.profiles.append(read_profile(path))
        elif (path / MANIFEST).is_file():
            bundle = open_bundle(path, every_file=False)
            opened.subjects.append(
                bundle_subject(bundle, _free_name(_bundle_name(path, bundle.manifest), opened.subjects))
            )
        else:
            opened.subjects.append(_model_subject(target, plugins, stack, weights, opened))
    if len(targets) == 1:
        opened.home = _home(Path(targets[0]))
    return opened


def _home(target: Path) -> Path:
    """The default output folder for one target; never inside a student's folder, which its run replaces."""
    if target.is_file():
        return target.parent
    if not target.is_dir():
        return Path("profiles") / _name(target)
    run = run_of(target)
    is_bundle = (target / MANIFEST).is_file()
    if run is None or run == target or is_bundle or not holds_student(target):
        return target / PROFILE
    return run / f"{PROFILE}-{target.resolve().name}"


def chosen_student(target: str, checkpoint: str | None) -> str:
    """A target of `profile` with the student of a run that `checkpoint` chooses.

    Raises: UserError for a bundle of another student; RunDirectoryError for a run without it, and for other targets.
    """
    path = Path(target)
    if checkpoint is None:
        return target
    if (path / MANIFEST).is_file():
        require_student(read_manifest(path), path, checkpoint)
        return target
    return str(student_directory(path, checkpoint))


def _require_named_model(targets: list[str]) -> None:
    """Refuse --weights if no target is a model by name, since bundles and runs have their own weights."""
    paths = [target for target in targets if Path(target).exists()]
    if len(paths) == len(targets):
        raise UserError(f"'{paths[0]}' has its own weights; leave out --weights, or name a model such as timm:resnet18")


def bundle_subject(bundle: OpenBundle, name: str) -> ProfiledStudent:
    """The artefacts of a checked bundle."""
    manifest = bundle.manifest
    artefacts = tuple(
        Artefact(
            replace(bundle.servable(card), source=str(bundle.path(card).resolve())),
            file=card.file,
            file_bytes=manifest.files[card.file].bytes,
        )
        for card in manifest.artifacts
    )
    card = _card(name, manifest, measured_accuracy(bundle))
    return ProfiledStudent(card, _shape(manifest), manifest.input.dtype, artefacts)


def _model_subject(
    target: str, plugins: PluginRegistry, stack: ExitStack, weights: str | None, opened: OpenTargets
) -> ProfiledStudent:
    """A run or a model by name: in memory, and as ONNX, from its export or from a temporary one."""
    path = Path(target)
    if not path.is_dir() and (path.suffix or "/" in target) and ":" not in target:
        raise RunDirectoryError(
            f"'{target}' does not exist; give a bundle, a run directory, a profile, or a model by name (timm:resnet18)"
        )
    require_exportable(target, plugins)
    require("torch", "timm", what=f"profiling '{target}'")
    name = _free_name(_name(path) if path.is_dir() else target.replace(":", "-").replace("/", "-"), opened.subjects)
    memory = Artefact(Servable("torch", str(path.resolve()) if path.is_dir() else target, weights=weights))
    folder = _current_export(path)
    try:
        if folder is None:
            from distillkit_export.pipeline.export import export

            folder = Path(stack.enter_context(TemporaryDirectory(prefix="distillkit-"))) / "bundle"
            export(target, folder, ExportOptions(weights=weights), plugins=plugins)
            opened.notes.append(f"{name}: exported to ONNX for this profile only")
        exported = bundle_subject(open_bundle(folder, every_file=False), name)
    except RunDirectoryError:
        raise
    except DistillkitError as error:
        opened.notes.append(f"{name}: measured only in torch, because it cannot be exported: {error}")
        return _in_memory(target, name, memory, plugins, weights)
    accuracy = {"fp32": run_accuracy} if (run_accuracy := _run_accuracy(path)) else {}
    card = exported.card.model_copy(update={"accuracy": exported.card.accuracy | accuracy})
    return ProfiledStudent(card, exported.shape, exported.dtype, (memory, *exported.artefacts))


def _in_memory(
    target: str, name: str, memory: Artefact, plugins: PluginRegistry, weights: str | None
) -> ProfiledStudent:
    from distillkit_export.pipeline.target import load_target

    spec = load_target(target, plugins, ExportOptions(weights=weights)).model.spec
    shape = (len(spec.mean), *spec.image_size)
    card = SubjectCard(
        name=name, architecture=spec.architecture, parameters=spec.parameters, input=f"float32 {_times(shape)}"
    )
    return ProfiledStudent(card, shape, "float32", (memory,))


def _current_export(run: Path) -> Path | None:
    """The export of a student of a run, if it was made from its current weights."""
    from distillkit.models.saved_student import weights_file

    folder, weights = default_folder(str(run)), weights_file(run)
    if not (folder / MANIFEST).is_file() or not weights.is_file():
        return None
    source = read_manifest(folder).source
    return folder if source.weights_sha256 == sha256(weights) else None


def _card(name: str, manifest: Bundle, accuracy: dict[str, AccuracyCard]) -> SubjectCard:
    return SubjectCard(
        name=name,
        architecture=manifest.student.architecture,
        parameters=manifest.student.parameters,
        input=f"{manifest.input.dtype} {_times(_shape(manifest))}",
        accuracy=accuracy,
    )


def _shape(manifest: Bundle) -> tuple[int, ...]:
    """Input shape of one image; the training size where height and width are dynamic."""
    size = dict(zip(("height", "width"), manifest.input.image_size, strict=True))
    return tuple(size[side] if isinstance(side, str) else side for side in manifest.input.shape[1:])


def measured_accuracy(bundle: OpenBundle) -> dict[str, AccuracyCard]:
    """Top-1 accuracy by precision, from the gate's report; empty if the gate had no labelled images."""
    if PARITY not in bundle.manifest.files:
        return {}
    try:
        files: dict[str, Any] = parse_json(bundle.content(PARITY).decode())["files"]
        reports = {artifact.precision: files.get(artifact.file) for artifact in bundle.manifest.artifacts}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {precision: card for precision, report in reports.items() if (card := _accuracy_in(report)) is not None}


def _accuracy_in(report: Any) -> AccuracyCard | None:
    measured = report.get("accuracy") if isinstance(report, dict) else None
    if not isinstance(measured, dict) or not isinstance(measured.get("file"), int | float):
        return None
    images = measured.get("images")
    return AccuracyCard(top1=measured["file"], images=images if isinstance(images, int) else None, source=PARITY)


def _run_accuracy(run: Path) -> AccuracyCard | None:
    """Top-1 accuracy of the run's final evaluation, on test images if there were any, else on validation images."""
    try:
        figures: dict[str, Any] = read_json(run / RESULT)["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for split in ("test", "validation"):
        top1, images = figures.get(f"{split}/top1"), figures.get(f"{split}/images")
        if isinstance(top1, int | float):
            count = int(images) if isinstance(images, int | float) else None
            return AccuracyCard(top1=top1, images=count, source=f"the run's evaluation, {split}")
    return None


def _name(path: Path) -> str:
    """The last informative part of a path: "soft" for "runs/soft/export"."""
    parts = [part for part in path.resolve().parts if part not in ("export", "profile")]
    return parts[-1]


def _bundle_name(path: Path, manifest: Bundle) -> str:
    """The folder's name; for a generic name such as "bundle", the name of the run that it was made from."""
    run = manifest.source.run
    is_generic = path.resolve().name in ("export", "profile", "bundle")
    return run if is_generic and run and "/" not in run else _name(path)


def _free_name(name: str, taken: list[ProfiledStudent]) -> str:
    names = {subject.name for subject in taken}
    numbered = (f"{name}-{number}" for number in range(2, len(names) + 3))
    return name if name not in names else next(each for each in numbered if each not in names)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def precisions(names: list[str]) -> tuple[Precision, ...]:
    """Parse the values of --precision, separated by commas or given one by one."""
    from distillkit.contracts.exporter import PRECISIONS
    from distillkit.messages.nearest_name import unknown_name

    found = [part.strip() for name in names for part in name.split(",")]
    for name in found:
        if name not in PRECISIONS:
            raise UserError(unknown_name("precision", name, PRECISIONS))
    return cast("tuple[Precision, ...]", tuple(dict.fromkeys(found)))
