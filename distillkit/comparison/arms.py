"""Arms of a comparison: runs whose recipes differ only by seed are repetitions of one arm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distillkit.comparison.differing_keys import arm_names, differing
from distillkit.comparison.run_facts import RunFacts
from distillkit.comparison.spread import Spread, spread
from distillkit.recipe.stored_paths import DATA_KEYS

ONLY_ARM = "all runs"


@dataclass(frozen=True)
class ComparedArm:
    """Repetitions of one recipe. `settings` are its values of the keys in which the recipes of the arms differ."""

    name: str
    settings: Mapping[str, Any]
    runs: tuple[RunFacts, ...]

    @cached_property
    def figures(self) -> dict[str, Spread]:
        """Mean and spread of every figure over the runs that have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.figures)
        spreads = {name: spread(run.figures[name] for run in self.runs if name in run.figures) for name in names}
        return {name: found for name, found in spreads.items() if found is not None}

    def by_seed(self, figure: str) -> dict[tuple[int, int], float]:
        """The values of a figure by seed."""
        return {run.seed: run.figures[figure] for run in self.runs if figure in run.figures}


def group(runs: Sequence[RunFacts]) -> tuple[tuple[ComparedArm, ...], tuple[tuple[RunFacts, RunFacts], ...]]:
    """The arms in the order of their first runs, and pairs of runs of the same recipe and seed.

    Of such a pair only the second run is in an arm: they are not two repetitions. A run of the same images under
    another path counts as the same recipe.
    """
    settings = _with_one_path(runs)
    keys = differing(settings, {key for run in runs for key in run.stated})
    grouped: dict[str, dict[tuple[int, int], RunFacts]] = {}
    chosen: dict[str, dict[str, Any]] = {}
    repeated: list[tuple[RunFacts, RunFacts]] = []
    for run, values in zip(runs, settings, strict=True):
        own = {key: values[key] for key in keys if key in values}
        name = json.dumps(own, sort_keys=True)
        chosen.setdefault(name, own)
        by_seed = grouped.setdefault(name, {})
        if run.seed in by_seed:
            repeated.append((by_seed[run.seed], run))
        by_seed[run.seed] = run
    names = arm_names(list(chosen.values())) if len(chosen) > 1 else (ONLY_ARM,)
    arms = (
        ComparedArm(name, own, tuple(grouped[key].values()))
        for name, (key, own) in zip(names, chosen.items(), strict=True)
    )
    return tuple(arms), tuple(repeated)


def seed_text(seed: tuple[int, int]) -> str:
    """The seed of a run, with that of its data if it is another one than the default."""
    own, of_data = seed
    return f"seed {own}" + (f", data.seed {of_data}" if of_data else "")


def _with_one_path(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """The settings of the runs, with one path for the same images: that of the first run that has them."""
    first: dict[str, dict[str, Any]] = {}
    settings = []
    for run in runs:
        data = run.plan.data
        digest = json.dumps([data.fingerprint, sorted(data.fingerprints.items())])
        paths = first.setdefault(digest, {key: run.settings.get(key) for key in DATA_KEYS})
        same = {
            key: value for key, value in paths.items() if isinstance(run.settings.get(key), str) and value is not None
        }
        settings.append({**run.settings, **same})
    return settings
