"""Which of a teacher's classes are the data's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, cast

from timm.data import ImageNetInfo

from distillkit.contracts.model import ModelSpec
from distillkit.errors import ClassSpaceError, RecipeError
from distillkit.messages.text import shortened
from distillkit.storage.untrusted import read_plain_text


@dataclass(frozen=True)
class ClassMap:
    """For each of the data's classes, the teacher's output that means it: `teacher_logits[:, indices]`.

    None is the identity.
    """

    indices: tuple[int, ...] | None = None

    def apply(self, spec: ModelSpec) -> ModelSpec:
        """The teacher's description as seen through the map."""
        if self.indices is None:
            return spec
        names = None if spec.class_names is None else tuple(spec.class_names[index] for index in self.indices)
        return replace(spec, classes=len(self.indices), class_names=names)


def match_classes(
    teacher: ModelSpec,
    class_names: Sequence[str] | None,
    classes: int,
    *,
    mode: Literal["auto", "index"],
    data: str,
) -> ClassMap:
    """Match the data's classes with the teacher's, by name where both sides have names and by position otherwise.

    Names are compared exactly at first, then without regard to case and with underscores as spaces; a class of
    ImageNet also goes by each of its descriptions ("n01440764", "tench", "Tinca tinca"). `data` names the data in
    errors.
    Raises: ClassSpaceError that names the ways out where they do not match.
    """
    subject = f"teacher '{teacher.name}' knows {_known(teacher)} and data '{data}' has {_count(classes)}"
    unnamed = teacher.class_names is None or class_names is None
    if teacher.classes == classes and (unnamed or mode == "index"):
        return ClassMap()
    if mode == "index":
        raise ClassSpaceError(f'{subject}; teacher.class_map = "index" needs equal numbers, "auto" matches by name')
    if teacher.class_names is None or class_names is None:
        raise ClassSpaceError(f"{subject}; {_ways_out(teacher)}")
    meanings = _meanings(teacher.class_names, class_names)
    strangers = [name for name, found in zip(class_names, meanings, strict=True) if not found]
    if not strangers:
        indices = _indices(teacher, class_names, meanings, data)
        return ClassMap(None if indices == tuple(range(teacher.classes)) else indices)
    if teacher.classes == classes:
        raise ClassSpaceError(
            f"{subject} with other names ({_first(teacher.class_names)} against {_first(class_names)}); if they mean "
            f'the same in this order, set teacher.class_map = "index", else {_ways_out(teacher)}'
        )
    raise ClassSpaceError(f"{subject}, which are not all among them ('{strangers[0]}' is not); {_ways_out(teacher)}")


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line, in the order of a model's outputs.

    Raises: RecipeError for a file that is missing, empty or names a class twice.
    """
    try:
        text = read_plain_text(path)
    except FileNotFoundError:
        raise RecipeError(f"there is no file of class names {path}; check teacher.classes") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); check teacher.classes") from None
    except ValueError as error:
        raise RecipeError(f"{path} {error}; give teacher.classes a text file, one name a line") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise RecipeError(f"{path} names no class; write one name a line, in the order of the teacher's outputs")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise RecipeError(f"{path} names class '{shortened(twice)}' twice; write every class once")
    return names


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The WordNet numbers of ImageNet-1k's 1,000 classes, in the usual order."""
    return tuple(_imagenet_descriptions())


@cache
def _imagenet_descriptions() -> dict[str, tuple[str, ...]]:
    """For each WordNet number the words for it: {"n01440764": ("tench", "Tinca tinca"), ...}."""
    descriptions = cast("dict[str, str]", ImageNetInfo().label_descriptions(as_dict=True))
    return {number: tuple(text.split(", ")) for number, text in descriptions.items()}


def _meanings(own: Sequence[str], names: Sequence[str]) -> list[set[int]]:
    """For each name the teacher's outputs that it may mean: none for a stranger."""
    exact = {name: {index} for index, name in enumerate(own)}
    spoken = _spoken(own)
    return [exact.get(name) or spoken.get(_plain(name), set()) for name in names]


def _indices(teacher: ModelSpec, names: Sequence[str], meanings: Sequence[set[int]], data: str) -> tuple[int, ...]:
    """The one output for each name; an error where a name may mean several, or several names mean one."""
    own = teacher.class_names or ()
    for name, found in zip(names, meanings, strict=True):
        if len(found) > 1:
            shown = ", ".join(own[index] for index in sorted(found))
            raise ClassSpaceError(
                f"class '{name}' of data '{data}' may be any of {shown} of teacher '{teacher.name}'; "
                "use one of these names"
            )
    indices = tuple(next(iter(found)) for found in meanings)
    for position, index in enumerate(indices):
        if index in indices[:position]:
            first = names[indices.index(index)]
            raise ClassSpaceError(
                f"classes '{first}' and '{names[position]}' of data '{data}' are the same class of teacher "
                f"'{teacher.name}' ({own[index]}); merge them"
            )
    return indices


def _spoken(class_names: Sequence[str]) -> dict[str, set[int]]:
    """Every way to say a class, and the outputs it may mean."""
    descriptions = _imagenet_descriptions() if set(class_names) & set(imagenet_class_names()) else {}
    spoken: dict[str, set[int]] = {}
    for index, name in enumerate(class_names):
        for word in (name, *descriptions.get(name, ())):
            spoken.setdefault(_plain(word), set()).add(index)
    return spoken


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _known(teacher: ModelSpec) -> str:
    return f"{teacher.classes:,} ImageNet classes" if _is_imagenet(teacher) else _count(teacher.classes)


def _count(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes:,} classes"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _ways_out(teacher: ModelSpec) -> str:
    named = "" if teacher.class_names is not None else "name the teacher's classes in a file (teacher.classes), "
    kind, _, directory = teacher.name.partition(":")
    tune = (
        f"distillkit run --from {directory} --loss ce --data DIR"
        if kind == "run"
        else f"distillkit finetune {teacher.name} --data DIR"
    )
    spelt = ", by WordNet number or by word" if _is_imagenet(teacher) else ""
    return (
        f"{named}give --data a folder whose class names are among the teacher's{spelt}, give --unlabeled DIR and no "
        "labels so that the student takes the teacher's classes, or fine-tune the teacher on this data "
        f"({tune}) and use --teacher run:DIR"
    )


def _is_imagenet(teacher: ModelSpec) -> bool:
    return teacher.class_names == imagenet_class_names()
