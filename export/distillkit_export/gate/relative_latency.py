"""Latency of exported files on this CPU relative to the first one: a hint that a smaller file may be slower.

`distillkit profile` measures realistic latencies. Here the files take turns in one process, so that other load on the
machine affects all of them equally.
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
MIN_TURN_S = 0.005
"""Shortest turn in seconds: a faster file runs several times per turn, because of clock noise."""


def relative_latency(files: Mapping[str, Scorer], image: NDArray[Any]) -> dict[str, float]:
    """Median over rounds of each file's latency divided by the first file's in the same round.

    Shapes: image [1, C, H, W], or [1, H, W, C] for files that normalise.
    """
    first = next(iter(files))
    # Warm-up: the first runs of a session are slower.
    for score in files.values():
        for _ in range(WARM_UP):
            score(image)
    repeats = max(1, round(MIN_TURN_S / _seconds(files[first], image, WARM_UP) * WARM_UP))
    rounds = [{name: _seconds(score, image, repeats) for name, score in files.items()} for _ in range(ROUNDS)]
    # Ratios within a round, because the load on the machine changes between rounds.
    return {name: median(times[name] / times[first] for times in rounds) for name in files}


def _seconds(score: Scorer, image: NDArray[Any], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        score(image)
    return perf_counter() - start
