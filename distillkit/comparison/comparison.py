"""A comparison of runs: its arms, differences from the baseline, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.comparison.arms import ComparedArm
from distillkit.comparison.differing_keys import SEEDS
from distillkit.comparison.per_class import PerClass
from distillkit.comparison.pictures import Disagreement
from distillkit.comparison.run_facts import RunFacts
from distillkit.comparison.same_images import comparable_figures
from distillkit.comparison.spread import ArmDifference, difference
from distillkit.storage.atomic import write_json, write_text
from distillkit.version import __version__

if TYPE_CHECKING:
    from distillkit.pages import PageTable

JSON_FILE, MARKDOWN_FILE, HTML_FILE = "comparison.json", "comparison.md", "comparison.html"


@dataclass(frozen=True)
class LeftOut:
    """A run that is not compared, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. Runs whose recipes differ only by seed are repetitions of one arm.

    `arms` are in the order of their first runs; differences are from `baseline`, one of them. `splits` are those whose
    images are the same in all runs, the one of the main figure first. `left_out` are runs that are not compared, such
    as unfinished ones, with the reason. `per_class` and `disagreements` need predictions of the students, see
    `distillkit.compare`.
    """

    arms: tuple[ComparedArm, ...]
    baseline: ComparedArm
    splits: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    made: str
    per_class: PerClass | None = None
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def runs(self) -> tuple[RunFacts, ...]:
        """All runs that are compared."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def is_repeated(self) -> bool:
        """Whether some arm has several runs, and so a spread."""
        return any(len(arm.runs) > 1 for arm in self.arms)

    @property
    def main_figure(self) -> str | None:
        """The figure that arms are compared by: top-1 on the test images, else on the validation images, if any."""
        named = [f"{split}/top1" for split in self.splits]
        return next((name for name in named if any(name in arm.figures for arm in self.arms)), None)

    def figure_names(self) -> list[str]:
        """The names of all figures that can be compared."""
        return comparable_figures(dict.fromkeys(name for arm in self.arms for name in arm.figures), self.splits)

    def difference(self, arm: ComparedArm, figure: str) -> ArmDifference | None:
        """The difference of an arm from the baseline, paired by seed; None if one of them lacks the figure."""
        return difference(arm.by_seed(figure), self.baseline.by_seed(figure))

    def lines(self) -> Iterator[str]:
        """The tables as lines of text, then the runs left out and the notes."""
        from distillkit.comparison.tables import text_lines

        for table in self.tables():
            yield from text_lines(table)
            yield ""
        yield from self.remarks()

    def tables(self) -> tuple[PageTable, ...]:
        """Differing keys, figures, cost, and, as far as known, latency and size, and answers."""
        from distillkit.comparison.tables import all_tables

        return all_tables(self)

    def remarks(self) -> Iterator[str]:
        """The runs that are left out, with reasons, and the notes."""
        yield from (f"left out: {each.name}: {each.reason}" for each in self.left_out)
        yield from (f"note: {note}" for note in self.notes)

    def as_dict(self) -> dict[str, Any]:
        """The content of comparison.json."""
        figures = self.figure_names()
        return {
            "kind": "distillkit comparison",
            "schema_version": 1,
            "made": self.made,
            "distillkit": __version__,
            "baseline": self.baseline.name,
            "splits": list(self.splits),
            "main_figure": self.main_figure,
            "arms": [self._arm_as_dict(arm, figures) for arm in self.arms],
            "per_class": None if self.per_class is None else self.per_class.as_dict(),
            "answers": [each.as_dict() for each in self.disagreements],
            "left_out": [{"run": each.name, "reason": each.reason} for each in self.left_out],
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        """The content of comparison.md."""
        from distillkit.comparison.report import comparison_page
        from distillkit.pages import as_markdown

        return as_markdown(comparison_page(self))

    def html(self) -> str:
        """The content of comparison.html: one page without scripts, which loads nothing."""
        from distillkit.comparison.report import comparison_page
        from distillkit.pages import as_html

        return as_html(comparison_page(self))

    def write(self, folder: str | PathLike[str]) -> tuple[Path, ...]:
        """Write comparison.json, comparison.md and comparison.html to a folder, which is made. Returns their paths.

        Raises: OSError.
        """
        directory = Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        paths = tuple(directory / name for name in (JSON_FILE, MARKDOWN_FILE, HTML_FILE))
        write_json(paths[0], self.as_dict())
        write_text(paths[1], self.markdown())
        write_text(paths[2], self.html())
        return paths

    def _arm_as_dict(self, arm: ComparedArm, figures: list[str]) -> dict[str, Any]:
        differences = {name: found for name in figures if (found := self.difference(arm, name)) is not None}
        return {
            "name": arm.name,
            "settings": dict(arm.settings),
            "figures": {name: arm.figures[name].as_dict() for name in figures if name in arm.figures},
            "differences": {name: each.as_dict() for name, each in differences.items()}
            if arm is not self.baseline
            else {},
            "runs": [_run_as_dict(run, figures) for run in arm.runs],
        }


def _run_as_dict(run: RunFacts, figures: list[str]) -> dict[str, Any]:
    cost = run.plan.cost
    return {
        "run": run.name,
        **{key: run.settings[key] for key in SEEDS},
        "figures": {name: run.figures[name] for name in figures if name in run.figures},
        "steps": run.result.steps,
        "images": run.images,
        "duration_s": run.result.duration_s,
        "images_per_s": run.images_per_s,
        "device": run.device,
        "student": run.plan.student.name,
        "parameters": run.plan.student.parameters,
        "student_gflop_per_image": cost.student_gflop_per_image,
        "teacher_gflop_per_image": cost.teacher_gflop_per_image,
        "run_pflop": cost.run_pflop,
        "exports": [each.as_dict() for each in run.exports],
    }
