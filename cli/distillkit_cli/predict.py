"""`distillkit predict`: classify images with an exported student."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from distillkit.errors import DataError, UserError
from distillkit.messages.text import command
from distillkit.storage.places import reason, require_writable_file
from distillkit_cli.default_target import bundle_and_images
from distillkit_cli.options import CHECKPOINT, JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit_export.predictor import Prediction, Predictor

IMAGES = typer.Argument(
    metavar="[BUNDLE] IMAGE",
    help="A folder that `distillkit export` wrote, then image files, folders of them, or patterns such as "
    "'shots/*.png'. Default: the bundle of the newest finished run in runs/.",
)
TOP = typer.Option(metavar="N", min=1, help="Classes to show per image.")
RUNTIME = typer.Option(metavar="NAME", help="Runtime from `distillkit plugins`. Default: the first that works.")
PRECISION = typer.Option(help="Precision of the file to use. Default: fp32, or the only one that --runtime loads.")
BATCH = typer.Option(metavar="N", min=1, max=4_096, help="Batch size.")
OUT = typer.Option(metavar="FILE.npy", help="Also write the probabilities of all classes, or the embeddings.")


def predict(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    arguments: Annotated[list[str], IMAGES],
    checkpoint: Annotated[str | None, CHECKPOINT] = None,
    top: Annotated[int, TOP] = 5,
    runtime: Annotated[str | None, RUNTIME] = None,
    precision: Annotated[Literal["fp32", "fp16", "bf16", "int8", "fp8"] | None, PRECISION] = None,
    batch: Annotated[int, BATCH] = 16,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Classify images with an exported student. torch is not needed.

    Unreadable images are listed; the others are still classified, and the exit code is 2.

    For example:
      distillkit predict cat.jpg
      distillkit predict runs/deit-ti-digits-ce-seed0-001/export cat.jpg
      distillkit predict bundle/ shots/ --top 1 --json
    """
    from distillkit.data.image_folders import shown_left_out
    from distillkit_export.bundle.student_of_bundle import bundle_folder
    from distillkit_export.images.image_files import image_files
    from distillkit_export.predictor import load

    terminal: Terminal = context.obj
    bundle, images = bundle_and_images(arguments, terminal)
    bundle = bundle_folder(bundle, checkpoint)
    _require_writable(out, bundle)
    found = image_files(images)
    files = found.paths
    predictor = load(bundle, runtime=runtime, precision=precision)
    if predictor.embeds and out is None:
        raise UserError(
            f"bundle '{bundle}' has no class head, so it cannot classify; "
            "give --out FILE.npy for the embeddings of the images"
        )
    if predictor.artifact.gate == "ungated":
        verify = command("distillkit", "verify", bundle)
        terminal.note(f"{predictor.artifact.file} was never compared with torch; run `{verify}`")
    if found.left_out:
        terminal.note(f"left out: {shown_left_out(found.left_out)}")
    unreadable: list[DataError] = []
    predictions: list[Prediction] = []
    for prediction in predictor.stream(files, batch, unreadable.append):
        predictions.append(prediction)
        if not as_json and not predictor.embeds:
            terminal.show("\n".join(_lines(prediction, top)))
    if out is not None and predictions:
        _write(out, predictions)
        terminal.note(f"{out}: array of {len(predictions)} x {len(predictions[0].scores)}, in the order of the images")
    if as_json:
        terminal.show_json(_as_dict(predictor, predictions, unreadable, top) | {"left_out": found.left_out})
    _report(terminal, unreadable, len(files))


def _lines(prediction: Prediction, top: int) -> list[str]:
    """An image and its top classes, with ? for control characters, which file and class names may contain."""
    rows = [f"  {share:6.1%}  {_printable(name)}" for name, share in prediction.top(top)]
    return [_printable(prediction.image), *rows]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _require_writable(out: Path | None, bundle: Path) -> None:
    """Refuse an output file before anything is computed.

    Raises: UserError if it is inside the bundle, does not end in .npy, or cannot be written.
    """
    if out is None:
        return
    if out.suffix != ".npy":
        raise UserError(f"--out {out} must end in .npy: it holds a NumPy array")
    if out.resolve().is_relative_to(bundle.resolve()):
        raise UserError(f"--out {out} is inside bundle '{bundle}', which must not change; choose another folder")
    try:
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; give a file that ends in .npy")
        if not out.parent.exists():
            raise UserError(f"--out {out} cannot be written: folder '{out.parent}' does not exist; create it first")
        require_writable_file(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {reason(out, error)}; give another file") from None


def _write(out: Path, predictions: list[Prediction]) -> None:
    import numpy as np

    from distillkit.storage.atomic import write_bytes

    # Saved in memory first: the atomic write leaves no truncated file behind if it is interrupted.
    content = io.BytesIO()
    np.save(content, np.stack([prediction.scores for prediction in predictions]), allow_pickle=False)
    try:
        write_bytes(out, content.getvalue())
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error


def _as_dict(
    predictor: Predictor, predictions: list[Prediction], unreadable: list[DataError], top: int
) -> dict[str, Any]:
    images: list[dict[str, Any]] = [{"image": prediction.image} for prediction in predictions]
    if not predictor.embeds:
        for row, prediction in zip(images, predictions, strict=True):
            row["top"] = [{"class": name, "probability": share} for name, share in prediction.top(top)]
    return {
        "file": predictor.artifact.file,
        "precision": predictor.artifact.precision,
        "runtime": predictor.runtime,
        "images": images,
        "failed": [str(error) for error in unreadable],
    }


def _report(terminal: Terminal, unreadable: list[DataError], total: int) -> None:
    """List the unreadable images.

    Raises: DataError if there are any.
    """
    if not unreadable:
        return
    if total == 1:
        raise unreadable[0]
    for error in unreadable:
        terminal.error(error)
    raise DataError(
        f"{len(unreadable)} of {total} images could not be read; the other {total - len(unreadable)} were classified"
    )
