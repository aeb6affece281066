"""Attention in the report: figures of the class token's attention in student and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit import RunModels, Samples

if TYPE_CHECKING:
    from distillkit.evaluation import Sight

FOLDER = "attention"
IMAGES = 3
SPLIT_NAMES = {"validation": "validation", "test": "test", "train": "training"}


def attention_section(directory: Path, plan: Mapping[str, Any], models: RunModels) -> list[str]:
    """Draw the attention in a few images of the run into `directory`/attention; return the Markdown paragraphs.

    Empty if the student's class-token attention cannot be read. An error while drawing does not fail the finished run:
    it is reported in the paragraph.
    """
    from distillkit.evaluation import why_unreadable

    if why_unreadable(models.student.spec) is not None:
        return []
    unreadable = {name: why_unreadable(teacher.spec) for name, teacher in models.teachers.items()}
    try:
        figures = _draw(directory / FOLDER, plan, models, [name for name, reason in unreadable.items() if not reason])
    except Exception as error:  # noqa: BLE001 - the run is finished and its results are saved; no error here may fail it
        figures = [f"The attention could not be drawn: {' '.join(str(error).split()) or type(error).__name__}."]
    missing = [f"Teacher '{name}' is not shown, because {reason}." for name, reason in unreadable.items() if reason]
    return ["## Attention", *figures, *missing]


def _draw(folder: Path, plan: Mapping[str, Any], models: RunModels, teachers: list[str]) -> list[str]:
    """Write the figures; return their caption and the links to them."""
    from distillkit.evaluation import as_png, draw_attention, see_attention

    samples = models.samples(IMAGES)
    seen = see_attention(
        f"student {models.student.spec.name}",
        models.student,
        {name: models.teachers[name] for name in teachers},
        samples.images,
    )
    folder.mkdir(exist_ok=True)
    links: list[str] = []
    for number, sights in enumerate(seen, start=1):
        title = _title(samples, number - 1, plan["class_names"])
        path = folder / f"{samples.split}-{number}.png"
        path.write_bytes(as_png(draw_attention(sights, title=title)))
        links.append(f"![{title}]({FOLDER}/{path.name})")
    return [_caption(samples, seen[0]), *links]


def _caption(samples: Samples, sights: tuple[Sight, ...]) -> str:
    images = f"{len(samples.keys)} {SPLIT_NAMES[samples.split]} image{'' if len(samples.keys) == 1 else 's'}"
    above = " and ".join(sight.name for sight in sights[:-1])
    return (
        f"Attention of the class token in {images}, layer by layer"
        f"{f': {above} above, the student below' * bool(above)}."
    )


def _title(samples: Samples, index: int, class_names: list[str] | None) -> str:
    """Key of the image and, if known, its class."""
    label = samples.labels[index]
    known = "" if label is None else f", class {class_names[label] if class_names else label}"
    return f"{SPLIT_NAMES[samples.split]} image {samples.keys[index]}{known}"
