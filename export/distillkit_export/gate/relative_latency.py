"""How long files take on this CPU, relative to the first of them: a hint that a smaller file is a slower one.

`distillkit profile` measures what a service sees; here files take turns in one process, so that whatever else the
machine does hits all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Scorer

ROUNDS, WARM_UP = 15, 3
LEAST_S = 0.005
"""Of one turn, in seconds; a file that is quicker computes several times, since a clock has noise of its own."""


def relative_latency(files: Mapping[str, Scorer], image: NDArray[Any]) -> dict[str, float]:
    """The median over rounds of each file's time for one image over that of the first file in the same round."""
    first = next(iter(files))
    for score in files.values():
        for _ in range(WARM_UP):
            score(image)
    repeats = max(1, round(LEAST_S / _seconds(files[first], image, WARM_UP) * WARM_UP))
    rounds = [{name: _seconds(score, image, repeats) for name, score in files.items()} for _ in range(ROUNDS)]
    return {name: median(times[name] / times[first] for times in rounds) for name in files}


def _seconds(score: Scorer, image: NDArray[Any], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        score(image)
    return perf_counter() - start
