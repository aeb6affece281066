"""Which figures can be compared: those measured on the same images in every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distillkit.comparison.run_facts import RunFacts
from distillkit.errors import DataError
from distillkit.messages.text import counted, shortened

SPLITS = ("test", "validation")
"""In the order in which they are preferred for the main figure."""


def comparable_splits(runs: Sequence[RunFacts]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits that all runs measured on the same images, and notes on those that they did not.

    Raises: DataError if the runs have other classes, other test images, or no split of equal images.
    """
    _check_classes(runs)
    shared, notes = [], []
    for split in SPLITS:
        measured = [run for run in runs if f"{split}/images" in run.result.figures]
        other = next((run for run in measured if not _has_same_images(run, measured[0], split)), None)
        if other is None:
            shared += [split] if measured else []
        elif split == "test":
            raise _different(measured[0], other, split)
        else:
            notes.append(
                f"{split} figures are left out: '{measured[0].name}' and '{other.name}' were measured on different "
                f"{split} images"
            )
            differing = (measured[0], other)
    if notes and not shared:
        raise _different(*differing, "validation")
    return tuple(shared), tuple(notes)


def comparable_figures(names: Iterable[str], shared: Sequence[str]) -> list[str]:
    """The names of the figures that were measured on a shared split, or on no split of the run."""
    hidden = {split for split in SPLITS if split not in shared} | ({"best"} if "validation" not in shared else set())
    return [name for name in names if name.partition("/")[0] not in hidden]


def _check_classes(runs: Sequence[RunFacts]) -> None:
    first = runs[0]
    for run in runs:
        if run.plan.class_names != first.plan.class_names:
            raise DataError(
                f"'{first.name}' and '{run.name}' have different classes ({_classes(first)}; {_classes(run)}); compare "
                "runs of the same data"
            )


def _has_same_images(one: RunFacts, other: RunFacts, split: str) -> bool:
    digests = [run.plan.data.fingerprints.get(split) for run in (one, other)]
    if None in digests:  # plans of earlier versions have none
        digests = [run.plan.data.train for run in (one, other)]
    return digests[0] == digests[1] and _images(one, split) == _images(other, split)


def _images(run: RunFacts, split: str) -> float:
    return run.result.figures[f"{split}/images"]


def _different(one: RunFacts, other: RunFacts, split: str) -> DataError:
    return DataError(
        f"'{one.name}' and '{other.name}' were measured on different {split} images ({_described(one, split)}; "
        f"{_described(other, split)}); compare runs of the same data"
    )


def _described(run: RunFacts, split: str) -> str:
    name = shortened(str(run.settings.get(f"data.{split}") or run.plan.data.train))
    return f"{counted(int(_images(run, split)), 'image')} of '{name}'"


def _classes(run: RunFacts) -> str:
    names = run.plan.class_names
    if names is None:
        return "without names"
    return f"{len(names):,}: {shortened(', '.join(names), 60)}"
