"""How many unreadable images a run bears."""

from __future__ import annotations

from distillkit.contracts.incidents import Incidents
from distillkit.data.splits import DataSets
from distillkit.errors import DataError
from distillkit.messages.text import counted


def check_broken(incidents: Incidents, datasets: DataSets, share: float) -> None:
    """Refuse to go on where more than `share` of the images of a set cannot be read.

    Raises: DataError with the counts by kind.
    """
    sizes = {"train": datasets.train, "validation": datasets.validation, "test": datasets.test}
    for split, kinds in incidents.counts().items():
        images, broken = len(sizes[split] or ()), sum(kinds.values())
        if broken > share * images:
            counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
            first = next(image for image in incidents.broken if image.split == split)
            raise DataError(
                f"{counted(broken, 'image')} of the {images:,} of {split} cannot be read ({counts}), more than "
                f"data.broken = {share:g} allows; the first is '{first.key}': {first.reason}; look at them all with "
                "`distillkit data check`, and repair or remove them, or raise data.broken"
            )
