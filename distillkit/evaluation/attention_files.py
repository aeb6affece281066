"""`distillkit attention`: figures of the class token attention of a run, for image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from distillkit.compute.devices import pick_device, pick_precision
from distillkit.contracts.decoding import Decoding
from distillkit.contracts.model import Layers, Model, ModelSpec
from distillkit.data.image_faults import open_rgb
from distillkit.data.image_folders import require_image_file
from distillkit.data.transforms import Transform, evaluation_transform
from distillkit.errors import DataError, SignalError, UserError
from distillkit.evaluation.attention import layers_of, see_attention, why_unreadable
from distillkit.evaluation.attention_figure import ShownHeads, as_png, draw_attention
from distillkit.evaluation.open_model import EvaluatedModel, open_model
from distillkit.messages.text import one_line
from distillkit.models.build import build_model
from distillkit.models.class_matching import ClassMap
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.planning.models import describe_teacher
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import TeacherEntry
from distillkit.storage.atomic import write_bytes
from distillkit.storage.links import require_own
from distillkit.storage.places import reason, require_writable


@dataclass(frozen=True)
class AttentionFiles:
    """The figures that were written, one per image, and notes on teachers that are not drawn."""

    figures: tuple[Path, ...]
    notes: tuple[str, ...]


def draw_files(  # noqa: PLR0913 - one parameter per option of the command
    target: str,
    images: Sequence[Path],
    plugins: PluginRegistry,
    *,
    checkpoint: str | None = None,
    weights: str | None = None,
    teacher: TeacherEntry | None = None,
    without_teacher: bool = False,
    layers: Layers = "all",
    heads: ShownHeads = "mean",
    out: Path | None = None,
    device: str = "auto",
) -> AttentionFiles:
    """Draw the class token attention of a model and its teachers over image files.

    `target` is the same as for `evaluate`: a run directory, a directory inside it with a student, or a teacher's name,
    optionally with a weight file `weights`; `checkpoint` chooses the student of a run. The teachers are those of the
    run, or `teacher`, or none. A teacher of the run that cannot be drawn is left out with a note; for `teacher` it is
    an error. Teachers receive the model's input, as in a run. `layers` are the model's. Figures are written to `out`;
    by default to attention/ in the run directory, or in the working directory if there is no run.
    Raises: RunDirectoryError for an unknown target; SignalError for attention or a layer that cannot be read;
        DataError for an unreadable image, before anything is written; what building a model raises.
    """
    torch_device = pick_device(device)
    if out is not None:
        _require_writable(out)  # before weights are loaded
    opened = open_model(target, plugins, weights, checkpoint)
    reason = why_unreadable(opened.spec)
    if reason is not None:
        raise SignalError(
            f"the attention of '{target}' cannot be drawn, because {reason}; choose a ViT with a class token"
        )
    model = cast("Model", opened.model.to(torch_device).eval())
    layers_of(f"'{target}'", opened.spec, layers)  # for its error, before images are read
    folder = out or (opened.home or Path()) / "attention"
    if out is None and opened.home is not None:
        require_own(folder)
    _require_writable(folder)
    transform = evaluation_transform(opened.recipe.augment, opened.spec)
    pixels = _opened(images, transform, Decoding.of(opened.recipe.data))
    teachers: dict[str, FrozenTeacher] = {}
    notes: list[str] = []
    if teacher is not None:
        teachers[teacher.name] = _built(teacher, opened.spec, plugins, torch_device)
    elif opened.home is not None and not without_teacher:
        teachers, notes = _of_run(opened, plugins, torch_device)
    name = opened.spec.name if opened.home is None else f"student {opened.spec.name}"
    written = []
    for path, figure_path in zip(images, _figure_paths(images, folder), strict=True):
        image = pixels[path].unsqueeze(0).to(torch_device)  # [1, C, H, W]
        (sights,) = see_attention(name, model, teachers, image, layers)
        # Names of files may hold bytes that are not text (surrogates), which matplotlib cannot draw.
        figure = draw_attention(sights, title=str(path).encode(errors="replace").decode(), heads=heads)
        written.append(_written(figure_path, as_png(figure)))
    return AttentionFiles(tuple(written), tuple(notes))


def _opened(paths: Sequence[Path], transform: Transform, decoding: Decoding) -> dict[Path, Tensor]:
    """Every image after the model's preprocessing, [C, H, W]."""
    return {path: transform(_open(path, decoding)) for path in paths}


def _open(path: Path, decoding: Decoding) -> Image.Image:
    require_image_file(path)
    try:
        return open_rgb(path, decoding)
    # Decoders may raise anything, as in `distillkit.data.sources.load_image`.
    except Exception as error:
        reason = one_line(error)
        raise DataError(f"image '{path}' cannot be read: {reason}; leave it out") from error


def _of_run(
    opened: EvaluatedModel, plugins: PluginRegistry, device: torch.device
) -> tuple[dict[str, FrozenTeacher], list[str]]:
    """The teachers of a run that can be drawn, and notes on those that cannot."""
    teachers, notes = {}, []
    for entry in opened.recipe.teachers:
        try:
            teachers[entry.name] = _built(entry, opened.spec, plugins, device)
        except UserError as error:
            notes.append(f"drawn without teacher '{entry.name}': {error}")
    if not opened.recipe.teachers:
        notes.append("drawn without a teacher: the run has none")
    return teachers, notes


def _built(entry: TeacherEntry, student: ModelSpec, plugins: PluginRegistry, device: torch.device) -> FrozenTeacher:
    """A teacher with its weights that receives the student's input, as in a run."""
    plugin = plugins.find("teacher", entry.model)
    described = describe_teacher(plugin, entry)
    # Checked on the spec, before weights are loaded.
    reason = why_unreadable(described.native)
    if reason is not None:
        raise SignalError(f"the attention of '{entry.model}' cannot be drawn, because {reason}")
    frozen = FrozenTeacher(
        build_model(plugin, described.request),
        student=student,
        size=entry.size,
        class_map=ClassMap(),
        precision=pick_precision(entry.precision, device),
    )
    return frozen.to(device)


def _figure_paths(images: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The path of each image's figure; images with the same name are numbered."""
    used: Counter[str] = Counter()
    for path in images:
        used[path.stem] += 1
        number = f"-{used[path.stem]}" if used[path.stem] > 1 else ""
        yield folder / f"{path.stem}-attention{number}.png"


def _require_writable(folder: Path) -> None:
    try:
        require_writable(folder)
    except OSError as error:
        raise UserError(f"cannot write to '{folder}' ({reason(folder, error)}); give another --out") from None


def _written(path: Path, png: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, png)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another --out") from None
    return path
