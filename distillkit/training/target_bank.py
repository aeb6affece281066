"""Targets from a bank: read what is stored, compute and store what is missing, compare a share with the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillkit.bank.row_format import RowFormat, Rows, finite
from distillkit.bank.shelf import Addresses, Shelf
from distillkit.messages.text import counted, one_line

DIFFERENT_SHARE = 0.1
"""Share of the compared rows that may differ: rounding changes a class where two are almost equally likely."""


@dataclass
class StoredTargets:
    """What a shelf has for a micro-batch: the payloads [B, bytes], and which of the rows [B] are there."""

    payloads: Rows
    hits: NDArray[np.bool_]


@dataclass
class ShelfUse:
    """The use of a shelf in a run, per process: rows read, computed and written.

    `to_compare` is the number of stored rows that are still to be compared with the teacher, `tolerance` the largest
    relative L2 distance of floating-point targets that counts as equal.
    """

    shelf: Shelf
    to_compare: int
    tolerance: float
    read: int = 0
    computed: int = 0
    written: int = 0
    compared: int = 0
    different: int = 0
    refused: bool = False
    stopped_writing: bool = False


@dataclass
class TargetBank:
    """The shelves of the losses of a run, by loss name.

    A loss always gets what a later read returns, also for a row that was just computed; otherwise a run that is killed
    and resumed would differ from one that was not. A stored row that disagrees with the teacher's is not used, and its
    shelf neither read nor written for the rest of the run. `bytes_left` is what this process may still write, None
    without a limit. `notes` are for the user; the code that shows them empties the list.
    """

    uses: Mapping[str, ShelfUse]
    bytes_left: int | None = None
    notes: list[str] = field(default_factory=list)

    def read(self, addresses: Addresses) -> dict[str, StoredTargets]:
        """What each shelf has for the images at `addresses` [B, 4]."""
        return {name: self._read(use, addresses) for name, use in self.uses.items()}

    def needs_teacher(self, name: str, stored: StoredTargets) -> bool:
        """Whether the teacher has to run: a row is missing, or stored ones are to be compared."""
        use = self.uses[name]
        return not stored.hits.all() or (use.to_compare > 0 and not use.refused)

    def stored(self, name: str, stored: StoredTargets, device: torch.device) -> dict[str, Tensor]:
        """The target tensors [B, ...] of a loss for which every row is stored."""
        use = self.uses[name]
        use.read += len(stored.hits)
        return use.shelf.row_format.decode(stored.payloads, device)

    def merge(
        self, name: str, stored: StoredTargets, computed: Mapping[str, Tensor], addresses: Addresses
    ) -> dict[str, Tensor]:
        """The target tensors [B, ...] of a loss: stored rows, and computed ones for those that are missing.

        Writes the missing rows that are finite.
        """
        use = self.uses[name]
        device = next(iter(computed.values())).device
        fresh = use.shelf.row_format.encode(computed)  # [B, bytes]
        if use.to_compare > 0 and not use.refused:
            self._compare(use, stored, fresh)
        if use.refused:
            use.computed += len(fresh)
            return use.shelf.row_format.decode(fresh, device)
        missing = ~stored.hits
        use.read, use.computed = use.read + int(stored.hits.sum()), use.computed + int(missing.sum())
        self._write(use, missing & finite(computed), addresses, fresh)
        return use.shelf.row_format.decode(np.where(missing[:, None], fresh, stored.payloads), device)

    def _read(self, use: ShelfUse, addresses: Addresses) -> StoredTargets:
        if not use.refused:
            try:
                return StoredTargets(*use.shelf.read(addresses))
            except OSError as error:
                use.refused = True
                self.notes.append(f"bank: cannot read {use.shelf.path} ({one_line(error)}); the teacher runs instead")
        nothing = np.zeros((len(addresses), use.shelf.row_format.bytes), np.uint8)
        return StoredTargets(nothing, np.zeros(len(addresses), np.bool_))

    def _compare(self, use: ShelfUse, stored: StoredTargets, fresh: Rows) -> None:
        """Compare the stored rows of a micro-batch with the teacher's; refuse the shelf where too many differ."""
        hits = stored.hits
        if not hits.any():
            return
        use.compared += int(hits.sum())
        use.to_compare -= int(hits.sum())
        different = different_rows(use.shelf.row_format, stored.payloads[hits], fresh[hits], use.tolerance)
        use.different += int(different.sum())
        if use.different > max(1, DIFFERENT_SHARE * use.compared):
            use.refused = True
            self.notes.append(
                f"bank: {use.different} of {counted(use.compared, 'stored target')} differ from the teacher's, so "
                f"{use.shelf.path} is not used in this run; shelf.json in it has the versions that it was made with"
            )

    def _write(self, use: ShelfUse, chosen: NDArray[np.bool_], addresses: Addresses, fresh: Rows) -> None:
        count = int(chosen.sum())
        if not count or use.stopped_writing or not use.shelf.writable:
            return
        size = count * use.shelf.row_bytes
        if self.bytes_left is not None and size > self.bytes_left:
            use.stopped_writing = True
            self.notes.append("bank: the size limit (bank_limit_gb) is reached; no more targets are stored")
            return
        try:
            use.shelf.write(addresses[chosen], fresh[chosen])
        except OSError as error:
            use.stopped_writing = True
            self.notes.append(f"bank: cannot write {use.shelf.path} ({one_line(error)}); no more targets are stored")
            return
        use.written += count
        if self.bytes_left is not None:
            self.bytes_left -= size


def different_rows(row_format: RowFormat, stored: Rows, fresh: Rows, tolerance: float) -> NDArray[np.bool_]:
    """Which rows [B] of two sets of payloads [B, bytes] differ by more than rounding explains.

    A floating-point target differs where the L2 distance exceeds `tolerance` times its norm, another one where more
    than half of its values are unequal: neighbours in a sorted list may swap.
    """
    cpu = torch.device("cpu")
    ours, theirs = row_format.decode(fresh, cpu), row_format.decode(stored, cpu)
    different = torch.zeros(len(fresh), dtype=torch.bool)
    for name, value in ours.items():
        a, b = value.reshape(len(value), -1), theirs[name].reshape(len(value), -1)  # [B, values]
        if a.is_floating_point():
            distance, norm = (a.double() - b.double()).norm(dim=1), a.double().norm(dim=1)  # [B]
            # Not "greater": a row that is not finite is different too.
            different |= ~(distance <= tolerance * norm + 1e-12)
        else:
            different |= (a != b).double().mean(dim=1) > 0.5
    return different.numpy()
