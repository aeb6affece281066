"""Attention in the report: figures of the class token's attention in student and teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import RunInfo, RunModels, Samples
from distillkit.pages import PageBlock, Paragraph, Picture

if TYPE_CHECKING:
    from distillkit.evaluation import Sight

FOLDER = "attention"
IMAGES = 3
SPLIT_NAMES = {"validation": "validation", "test": "test", "train": "training"}


def attention_section(run: RunInfo, models: RunModels) -> list[PageBlock]:
    """Draw the attention in a few images of the run into attention/ of the run; return captions and pictures.

    Empty if the student's class-token attention cannot be read. An error while drawing does not fail the finished run:
    it is reported in a paragraph.
    """
    from distillkit.evaluation import why_unreadable

    if why_unreadable(models.student.spec) is not None:
        return []
    unreadable = {name: why_unreadable(teacher.spec) for name, teacher in models.teachers.items()}
    try:
        figures = _draw(run, models, [name for name, reason in unreadable.items() if not reason])
    except Exception as error:  # noqa: BLE001 - the run is finished and its results are saved; no error here may fail it
        reason = " ".join(str(error).split()) or type(error).__name__
        figures = [Paragraph(f"The attention could not be drawn: {reason}.")]
    missing = [
        Paragraph(f"Teacher '{name}' is not shown, because {reason}.") for name, reason in unreadable.items() if reason
    ]
    return [*figures, *missing]


def _draw(run: RunInfo, models: RunModels, teachers: list[str]) -> list[PageBlock]:
    """Write the figures; return their caption and the pictures."""
    from distillkit.evaluation import as_png, draw_attention, see_attention

    samples = models.samples(IMAGES)
    seen = see_attention(
        f"student {models.student.spec.name}",
        models.student,
        {name: models.teachers[name] for name in teachers},
        samples.images,
    )
    pictures: list[PageBlock] = []
    for number, sights in enumerate(seen, start=1):
        title = _title(samples, number - 1, run.plan["class_names"])
        name, content = f"{FOLDER}/{samples.split}-{number}.png", as_png(draw_attention(sights, title=title))
        run.write(name, content)
        pictures.append(Picture(title, content, name))
    return [Paragraph(_caption(samples, seen[0])), *pictures]


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
