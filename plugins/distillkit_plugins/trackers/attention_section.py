"""The section of the report that shows where the class tokens look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit import RunModels, Samples

if TYPE_CHECKING:
    from distillkit.evaluation import Sight

FOLDER = "attention"
IMAGES = 3
SPOKEN = {"validation": "validation", "test": "test", "train": "training"}


def attention_section(directory: Path, plan: Mapping[str, Any], models: RunModels) -> list[str]:
    """Draw a few images of the run into `directory`/attention, and write the paragraphs around the pictures.

    None at all for a student whose class token's attention cannot be read. A run that is finished does not fail for
    want of a picture: what went wrong becomes the paragraph.
    """
    from distillkit.evaluation import why_unreadable

    if why_unreadable(models.student.spec) is not None:
        return []
    unreadable = {name: why_unreadable(teacher.spec) for name, teacher in models.teachers.items()}
    try:
        pictures = _draw(directory / FOLDER, plan, models, [name for name, reason in unreadable.items() if not reason])
    except Exception as error:  # noqa: BLE001 - whatever it is, the run is finished and its figures stand
        pictures = [f"There are no pictures of it: {' '.join(str(error).split()) or type(error).__name__}."]
    missing = [f"Teacher '{name}' is not shown, because {reason}." for name, reason in unreadable.items() if reason]
    return ["## Attention", *pictures, *missing]


def _draw(folder: Path, plan: Mapping[str, Any], models: RunModels, teachers: list[str]) -> list[str]:
    """Write the pictures, and say what is on them."""
    from distillkit.evaluation import as_png, draw_attention, see_attention

    samples = models.samples(IMAGES)
    seen = see_attention(
        f"student {models.student.spec.name}",
        models.student,
        {name: models.teachers[name] for name in teachers},
        samples.images,
    )
    folder.mkdir(exist_ok=True)
    links = []
    for number, sights in enumerate(seen, start=1):
        title = _title(samples, number - 1, plan["class_names"])
        path = folder / f"{samples.split}-{number}.png"
        path.write_bytes(as_png(draw_attention(sights, title=title)))
        links.append(f"![{title}]({FOLDER}/{path.name})")
    return [_what(samples, seen[0]), *links]


def _what(samples: Samples, sights: tuple[Sight, ...]) -> str:
    images = f"{len(samples.keys)} {SPOKEN[samples.split]} image{'' if len(samples.keys) == 1 else 's'}"
    above = " and ".join(sight.name for sight in sights[:-1])
    return (
        f"Where the class token looks in {images}, layer by layer{f': {above} above, the student below' * bool(above)}."
    )


def _title(samples: Samples, index: int, class_names: list[str] | None) -> str:
    """The image by its key and, where known, its class."""
    label = samples.labels[index]
    known = "" if label is None else f", class {class_names[label] if class_names else label}"
    return f"{SPOKEN[samples.split]} image {samples.keys[index]}{known}"
