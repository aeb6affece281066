"""Split of a process's samples of one step into micro-batches."""

from __future__ import annotations

from itertools import pairwise

from distillkit.data.order import rank_positions
from distillkit.errors import RecipeError
from distillkit.messages.text import counted


def micro_batches(samples: int, size: int | None, *, allow_single: bool = True) -> tuple[slice, ...]:
    """Slices of at most `size` samples; the last may be smaller. Without `size`, one slice of all.

    If the last one would be a single sample and `allow_single` is off, the last two are split evenly, and between
    pairs where `size` is even: 9 samples by 8 become 4 + 5, 15 by 7 become 7 + 4 + 4. A size of 1 or 2 has no such
    split.

    >>> [part.stop - part.start for part in micro_batches(9, 8, allow_single=False)]
    [4, 5]
    """
    size = size or max(samples, 1)
    starts = list(range(0, samples, size))
    if not allow_single and size > 2 and len(starts) > 1 and samples - starts[-1] == 1:
        # An even size: at the even number nearest to the middle, between two pairs.
        starts[-1] = starts[-2] + ((size + 1) // 2 if size % 2 else (size + 2) // 4 * 2)
    return tuple(slice(start, end) for start, end in pairwise([*starts, samples]))


def check_no_single_samples(samples: int, size: int | None, world: int) -> None:
    """Refuse a step of `samples` in `world` processes that cannot be split without a micro-batch of one sample.

    Raises: RecipeError.
    """
    for rank in range(world):
        parts = micro_batches(len(rank_positions(samples, rank, world)), size, allow_single=False)
        if any(part.stop - part.start == 1 for part in parts):
            split = f" in micro-batches of {size}" if size else ""
            shared = f" over {world} processes" if world > 1 else ""
            raise RecipeError(
                "this student cannot be trained on a single image, because its batch normalisation needs two values "
                f"per channel; a step of {counted(samples, 'sample')}{shared}{split} leaves one by itself: "
                f"set {_remedy(samples, size, world)}"
            )


def _remedy(samples: int, size: int | None, world: int) -> str:
    """The settings that leave no sample by itself, with as few changes as possible."""
    counts = [len(rank_positions(samples, rank, world)) for rank in range(world)]
    if 1 not in counts:  # only micro-batches of 1 or 2 leave one
        return f"training.micro_batch_size to at least {3 if any(count % 2 for count in counts) else 2}"
    remedy = f"training.batch_size to a multiple of {2 * world}"
    return f"{remedy} and training.micro_batch_size to at least 2" if size == 1 else remedy
