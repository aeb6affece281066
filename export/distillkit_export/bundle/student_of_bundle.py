"""Which student of a run a bundle holds, and where `export` writes the bundle of each."""

from __future__ import annotations

from pathlib import Path

from distillkit.contracts.student_directory import is_run, plain_name, run_of, student_directory
from distillkit.errors import BundleError, UserError
from distillkit.messages.text import command
from distillkit_export.bundle.manifest import MANIFEST, Bundle
from distillkit_export.bundle.reader import read_manifest


def default_folder(target: str) -> Path:
    """Default output folder of an export.

    It is in the run's folder, never in that of its best student or a checkpoint, which the run replaces.
    """
    path = Path(target)
    if not path.is_dir():
        return Path("exports") / target.replace(":", "-").replace("/", "-")
    run = run_of(path)
    return path / "export" if run in (None, path) else run / f"export-{path.resolve().name}"


def bundle_folder(target: Path, checkpoint: str | None) -> Path:
    """The bundle that `target` stands for: itself, or that of a student of a run.

    Raises: BundleError for a run without that bundle; UserError for a bundle of another student; as
        `student_directory`.
    """
    if (target / MANIFEST).is_file() or not is_run(target):
        if checkpoint is not None:
            require_student(read_manifest(target), target, checkpoint)
        return target
    folder = default_folder(str(student_directory(target, checkpoint)))
    if not (folder / MANIFEST).is_file():
        export = command("distillkit", "export", target, *(["--checkpoint", checkpoint] if checkpoint else []))
        raise BundleError(f"run '{target}' has no bundle '{folder}'; make it with: {export}")
    return folder


def require_student(manifest: Bundle, folder: Path, checkpoint: str) -> None:
    """Check that a bundle holds the student that `--checkpoint` names.

    Raises: UserError.
    """
    held = manifest.source.checkpoint
    if held == plain_name(checkpoint):
        return
    fact = f"holds the student '{held}' of its run" if held else "does not say which student of its run it holds"
    raise UserError(f"bundle '{folder}' {fact}; leave out --checkpoint {checkpoint}, or give the run")
