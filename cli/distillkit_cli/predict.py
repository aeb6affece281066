"""`distillkit predict`: what is on these images, answered by a bundle."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from distillkit.errors import DataError, UserError
from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit_export.predictor import Prediction, Predictor

BUNDLE = typer.Argument(metavar="BUNDLE", help="A folder that `distillkit export` wrote.")
IMAGES = typer.Argument(metavar="IMAGE", help="Image files, folders of them, or patterns such as 'shots/*.png'.")
TOP = typer.Option(metavar="N", min=1, help="How many classes to show of each image.")
RUNTIME = typer.Option(metavar="NAME", help="A runtime of `distillkit plugins`. Default: the first that works.")
PRECISION = typer.Option(help="Which file of the bundle answers. Default: fp32, or the only one that --runtime loads.")
BATCH = typer.Option(metavar="N", min=1, max=4_096, help="Images that are computed at a time.")
OUT = typer.Option(metavar="FILE.npy", help="Write the probabilities of all classes, or the embeddings.")


def predict(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    bundle: Annotated[Path, BUNDLE],
    images: Annotated[list[str], IMAGES],
    top: Annotated[int, TOP] = 5,
    runtime: Annotated[str | None, RUNTIME] = None,
    precision: Annotated[Literal["fp32", "fp16", "bf16", "int8", "fp8"] | None, PRECISION] = None,
    batch: Annotated[int, BATCH] = 16,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Name the likeliest classes of images with an exported student; torch is not needed.

    Images that cannot be read are named, the others are answered, and the exit code is 2.

    For example:
      distillkit predict runs/deit-ti-digits-001/export cat.jpg dog.jpg
      distillkit predict bundle/ shots/ --top 1 --json
    """
    from distillkit_export.images.image_files import image_files
    from distillkit_export.predictor import load

    terminal: Terminal = context.obj
    _require_writable(out, bundle)
    files = image_files(images)
    predictor = load(bundle, runtime=runtime, precision=precision)
    if predictor.embeds and out is None:
        raise UserError(
            f"bundle '{bundle}' has no class head, so there is no class to name; "
            "give --out FILE.npy for the embeddings of the images"
        )
    if predictor.artifact.gate == "ungated":
        terminal.note(f"{predictor.artifact.file} was never compared with torch; `distillkit verify {bundle}` does it")
    bad: list[DataError] = []
    answered: list[Prediction] = []
    for prediction in predictor.stream(files, batch, bad.append):
        answered.append(prediction)
        if not as_json and not predictor.embeds:
            terminal.show("\n".join(_lines(prediction, top)))
    if out is not None and answered:
        _write(out, answered)
        terminal.note(f"{out}: {len(answered)} x {len(answered[0].scores)} numbers, in the order of the images")
    if as_json:
        terminal.show_json(_as_dict(predictor, answered, bad, top))
    _report(terminal, bad, len(files))


def _lines(prediction: Prediction, top: int) -> list[str]:
    """An image and its classes; names from a bundle or a folder cannot move the cursor."""
    rows = [f"  {share:6.1%}  {_plain(name)}" for name, share in prediction.top(top)]
    return [_plain(prediction.image), *rows]


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _require_writable(out: Path | None, bundle: Path) -> None:
    """Refuse a place for the numbers before anything is computed.

    Raises: UserError for one that is inside the bundle, is not called .npy, or cannot be written to.
    """
    if out is None:
        return
    if out.suffix != ".npy":
        raise UserError(f"--out {out} would hold a NumPy array; give a file that ends in .npy")
    if out.resolve().is_relative_to(bundle.resolve()):
        raise UserError(f"--out {out} lies inside bundle '{bundle}', which is not written to; give a file elsewhere")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file that ends in .npy")
    if not out.parent.is_dir():
        raise UserError(f"--out {out} cannot be written: folder '{out.parent}' does not exist; create it first")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError(f"--out {out} cannot be written: no permission to write to folder '{out.parent}'")


def _write(out: Path, answered: list[Prediction]) -> None:
    import numpy as np

    from distillkit.storage.atomic import write_bytes

    content = io.BytesIO()
    np.save(content, np.stack([prediction.scores for prediction in answered]), allow_pickle=False)
    try:
        write_bytes(out, content.getvalue())
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error


def _as_dict(predictor: Predictor, answered: list[Prediction], bad: list[DataError], top: int) -> dict[str, Any]:
    images: list[dict[str, Any]] = [{"image": prediction.image} for prediction in answered]
    if not predictor.embeds:
        for row, prediction in zip(images, answered, strict=True):
            row["top"] = [{"class": name, "probability": share} for name, share in prediction.top(top)]
    return {
        "file": predictor.artifact.file,
        "precision": predictor.artifact.precision,
        "runtime": predictor.runtime,
        "images": images,
        "failed": [str(error) for error in bad],
    }


def _report(terminal: Terminal, bad: list[DataError], asked: int) -> None:
    """Name the images without an answer.

    Raises: DataError where there are any.
    """
    if not bad:
        return
    if asked == 1:
        raise bad[0]
    for error in bad:
        terminal.error(error)
    raise DataError(f"{len(bad)} of {asked} images could not be read, {asked - len(bad)} are answered")
