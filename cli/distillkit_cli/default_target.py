"""Default TARGET of commands: the newest finished run in runs/, or its bundle."""

from __future__ import annotations

from glob import has_magic
from pathlib import Path

from distillkit.errors import RunDirectoryError, UserError
from distillkit.messages.text import command
from distillkit.running.default_directory import newest_run
from distillkit.storage.user_dirs import expanded
from distillkit_cli.terminal import Terminal

MANIFEST = "bundle.json"
TARGET_FILES = ("recipe.toml", "student.json", MANIFEST)
"""A folder with one of these files is a run, a student in it, or a bundle, and not a folder of images."""
DEFAULT = "Default: the newest finished run in runs/."


def run_or_newest(target: str | None, terminal: Terminal) -> str:
    """TARGET as given, else the newest finished run. A note names it.

    Raises: RunDirectoryError if there is none.
    """
    return target if target is not None else _newest_run(terminal)


def run_or_its_bundle(target: str | None, terminal: Terminal, *, extends: bool) -> str:
    """TARGET as given, else the newest finished run, or with `extends` its bundle if it has one. A note names it.

    Raises: RunDirectoryError if there is none.
    """
    bundle = newest_run() / "export" if target is None and extends else None
    if bundle is None or not (bundle / MANIFEST).is_file():
        return run_or_newest(target, terminal)
    return str(_noted_bundle(bundle, terminal))


def bundle_and_images(arguments: list[str], terminal: Terminal) -> tuple[Path, list[str]]:
    """The bundle and the images of `predict`: if the first argument is an image, the newest finished run's bundle.

    Raises: RunDirectoryError if there is none; UserError without images.
    """
    if not (_names_images(arguments[0]) or _is_image_folder(expanded(arguments[0]))):
        return Path(arguments[0]), _required(arguments[1:])
    run = newest_run()
    bundles = sorted(run.glob(f"export*/{MANIFEST}"), key=lambda file: file.stat().st_mtime_ns)
    if not bundles:
        raise RunDirectoryError(
            f"no BUNDLE is given, and {run}, the newest finished run, has none; give a bundle, or export the run with "
            + command("distillkit", "export", run)
        )
    return _noted_bundle(bundles[-1].parent, terminal), arguments


def run_and_images(arguments: list[str], terminal: Terminal) -> tuple[str, list[Path]]:
    """The target and the images of `attention`: if the first argument is an image, the newest finished run.

    Raises: RunDirectoryError if there is none; UserError without images.
    """
    if _names_images(arguments[0]):
        return _newest_run(terminal), [Path(image) for image in arguments]
    return arguments[0], [Path(image) for image in _required(arguments[1:])]


def _newest_run(terminal: Terminal) -> str:
    run = newest_run()
    terminal.note(f"TARGET is {run}, the newest finished run")
    return str(run)


def _noted_bundle(bundle: Path, terminal: Terminal) -> Path:
    terminal.note(f"the bundle is {bundle}, of the newest finished run")
    return bundle


def _names_images(argument: str) -> bool:
    """Whether an argument names image files, and not a run, a bundle or a model. An image need not exist."""
    from distillkit.data.image_folders import IMAGE_EXTENSIONS

    path = expanded(argument)
    if path.is_dir():
        return False
    return path.suffix.lower() in IMAGE_EXTENSIONS or has_magic(argument) or (path.is_file() and not path.suffix)


def _is_image_folder(path: Path) -> bool:
    from distillkit.data.image_folders import list_images

    if not path.is_dir() or any((path / name).is_file() for name in TARGET_FILES):
        return False
    return bool(list_images(path).images)


def _required(images: list[str]) -> list[str]:
    if not images:
        raise UserError("no IMAGE is given; name at least one image file")
    return images
