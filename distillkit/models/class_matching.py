"""Match a teacher's classes with the classes of the data."""

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
from distillkit.messages.text import command, shortened
from distillkit.storage.untrusted import read_plain_text


@dataclass(frozen=True)
class ClassMap:
    """Index of the teacher's logit for each class of the data: `teacher_logits[:, indices]`, [B, K].

    None is the identity.
    """

    indices: tuple[int, ...] | None = None

    def apply(self, spec: ModelSpec) -> ModelSpec:
        """The teacher's spec with the classes of the data."""
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
    """Match the data's classes with the teacher's: by name if both have names, else by index.

    An exact match of names comes first, then one that ignores case and reads underscores as spaces. An ImageNet class
    also matches each of its descriptions ("n01440764", "tench", "Tinca tinca"). `data` is the data's name in errors.
    Raises: ClassSpaceError with the possible remedies if they do not match.
    """
    subject = f"teacher '{teacher.name}' knows {_known(teacher)} and data '{data}' has {_count(classes)}"
    unnamed = teacher.class_names is None or class_names is None
    if teacher.classes == classes and (unnamed or mode == "index"):
        return ClassMap()
    if mode == "index":
        raise ClassSpaceError(
            f'{subject}; teacher.class_map = "index" needs equal numbers of classes, "auto" matches by name'
        )
    if teacher.class_names is None or class_names is None:
        raise ClassSpaceError(f"{subject}; {_remedies(teacher)}")
    candidates = _candidates(teacher.class_names, class_names)
    unknown = [name for name, matches in zip(class_names, candidates, strict=True) if not matches]
    if not unknown:
        indices = _indices(teacher, class_names, candidates, data)
        # The identity as None: the logits then need no indexing.
        return ClassMap(None if indices == tuple(range(teacher.classes)) else indices)
    if teacher.classes == classes:
        raise ClassSpaceError(
            f"{subject} with other names ({_first(teacher.class_names)} and {_first(class_names)}); if they are the "
            f'same classes in the same order, set teacher.class_map = "index", else {_remedies(teacher)}'
        )
    raise ClassSpaceError(f"{subject}; the teacher does not know class '{unknown[0]}'; {_remedies(teacher)}")


def numbered_outputs(spec: ModelSpec, names: Sequence[str] | None) -> ClassMap | None:
    """The map for classes that are named by the numbers of the model's outputs; None if they are not.

    They are not if the model has a class with such a name. A number beyond the outputs is not one either.
    """
    if not names or not all(name.isdecimal() for name in names) or set(names) & set(spec.class_names or ()):
        return None
    numbers = tuple(map(int, names))
    is_output = max(numbers) < spec.classes and len(set(numbers)) == len(numbers)
    return ClassMap(numbers) if is_output else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line, in the order of a model's outputs.

    Raises: RecipeError for a file that is missing or empty, or lists a class twice.
    """
    try:
        text = read_plain_text(path)
    except FileNotFoundError:
        raise RecipeError(f"there is no class name file {path}; check teacher.classes") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); check teacher.classes") from None
    except ValueError as error:
        raise RecipeError(f"{path} {error}; set teacher.classes to a text file with one name per line") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise RecipeError(f"{path} lists no classes; write one name per line, in the order of the teacher's outputs")
    if len(names) == 1 and "," in names[0]:
        raise RecipeError(f"{path} has a single line with commas; write one class name per line, without quotes")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise RecipeError(f"{path} lists class '{shortened(twice)}' twice; list each class once")
    return names


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The WordNet IDs of ImageNet-1k's 1,000 classes, in the usual order."""
    return tuple(_imagenet_descriptions())


@cache
def _imagenet_descriptions() -> dict[str, tuple[str, ...]]:
    """Descriptions of each WordNet ID: {"n01440764": ("tench", "Tinca tinca"), ...}."""
    descriptions = cast("dict[str, str]", ImageNetInfo().label_descriptions(as_dict=True))
    return {number: tuple(text.split(", ")) for number, text in descriptions.items()}


def _candidates(teacher_names: Sequence[str], names: Sequence[str]) -> list[set[int]]:
    """Indices of the teacher's classes that each name matches; empty for an unknown name."""
    exact = {name: {index} for index, name in enumerate(teacher_names)}
    normalised = _by_normalised_name(teacher_names)
    # Exact names first: "Ant" and "ant" may both be classes of the teacher.
    return [exact.get(name) or normalised.get(_normalised(name), set()) for name in names]


def _indices(teacher: ModelSpec, names: Sequence[str], candidates: Sequence[set[int]], data: str) -> tuple[int, ...]:
    """The index for each name.

    Raises: ClassSpaceError if a name matches several classes, or several names match one.
    """
    own = teacher.class_names or ()
    for name, matches in zip(names, candidates, strict=True):
        if len(matches) > 1:
            shown = ", ".join(own[index] for index in sorted(matches))
            raise ClassSpaceError(
                f"class '{name}' of data '{data}' matches several classes of teacher '{teacher.name}': {shown}; "
                "use one of these names"
            )
    indices = tuple(next(iter(matches)) for matches in candidates)
    for position, index in enumerate(indices):
        if index in indices[:position]:
            first = names[indices.index(index)]
            raise ClassSpaceError(
                f"classes '{first}' and '{names[position]}' of data '{data}' are the same class of teacher "
                f"'{teacher.name}' ({own[index]}); merge them"
            )
    return indices


def _by_normalised_name(class_names: Sequence[str]) -> dict[str, set[int]]:
    """Indices of the classes by normalised name and ImageNet description; a description may stand for several."""
    descriptions = _imagenet_descriptions() if set(class_names) & set(imagenet_class_names()) else {}
    indices: dict[str, set[int]] = {}
    for index, name in enumerate(class_names):
        for known_as in (name, *descriptions.get(name, ())):
            indices.setdefault(_normalised(known_as), set()).add(index)
    return indices


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _known(teacher: ModelSpec) -> str:
    return f"{teacher.classes:,} ImageNet classes" if _is_imagenet(teacher) else _count(teacher.classes)


def _count(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes:,} classes"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _remedies(teacher: ModelSpec) -> str:
    listed = "" if teacher.class_names is not None else "list the teacher's class names in a file (teacher.classes), "
    kind, _, directory = teacher.name.partition(":")
    # `finetune` accepts models by name, not runs.
    tune = (
        command("distillkit", "run", "--from", directory, "--loss", "ce", "--data", "DIR")
        if kind == "run"
        else command("distillkit", "finetune", teacher.name, "--data", "DIR")
    )
    forms = ", as WordNet IDs or words" if _is_imagenet(teacher) else ""
    return (
        f"{listed}give --data a folder with class names of the teacher{forms}, use --unlabeled DIR without labels to "
        "train a student for the teacher's classes, or fine-tune the teacher on this data "
        f"({tune}) and use --teacher run:DIR"
    )


def _is_imagenet(teacher: ModelSpec) -> bool:
    return teacher.class_names == imagenet_class_names()
