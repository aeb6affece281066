"""What a run will store in its target bank: shelves, sizes, and the nearest shelf where none fits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distillkit.bank.directory import Bank
from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import CHECK_BYTES
from distillkit.data.order import Order
from distillkit.data.selection import Selection
from distillkit.data.sources import is_stream
from distillkit.errors import BankError
from distillkit.messages.text import counted, size_text
from distillkit.planning.bank_facts import images_digest, shelf_facts
from distillkit.planning.masked_teachers import refuse_bank
from distillkit.planning.plan import BankPlan, LossPlan, Plan, ShelfPlan
from distillkit.storage.user_dirs import expanded

SHOWN = 4
"""Number of differing facts listed for the nearest shelf."""
UNKNOWN = frozenset({"teacher.weights", "loss.buffers"})
"""Facts that a plan does not know, because it loads no weights."""


def plan_bank(plan: Plan) -> BankPlan | None:
    """What the run of a plan stores in its bank, None without `bank`.

    Raises: BankError if the data is a stream, no loss reads a teacher, or one is masked.
    """
    recipe = plan.recipe
    refuse_bank(recipe)
    only_in_bank = {name for name, teacher in plan.teachers.items() if teacher.entry.only_in_bank}
    if recipe.bank is None:
        if only_in_bank:
            raise BankError(
                f"teacher '{min(only_in_bank)}' has weights = \"bank\", and the run has no bank; give --bank DIR"
            )
        return None
    train = plan.datasets.train
    if is_stream(train) or not isinstance(train, Selection):
        raise BankError(
            f"a bank needs images with an index, and '{train.name}' is a stream; leave out --bank, or name a folder or "
            "an indexed data set"
        )
    distilling = {name: loss for name, loss in plan.losses.items() if loss.teacher is not None and loss.loss.targets}
    if not distilling:
        raise BankError("--bank stores a teacher's targets, and no loss of this run has any; leave it out")
    bank = Bank(expanded(recipe.bank))
    if bank.path.exists() and not bank.path.is_dir():
        raise BankError(f"the bank {bank.path} is not a folder; give another one")
    epochs = -(-plan.steps // plan.steps_per_epoch)
    views = epochs if recipe.data.views is None else min(epochs, recipe.data.views)
    order = Order.from_recipe(plan.datasets, recipe)
    rows = min(plan.steps, views * plan.steps_per_epoch) * plan.samples_per_step
    images = images_digest(train)
    shelves = {name: _shelf(bank, plan, loss, rows, images) for name, loss in distilling.items()}
    for name, shelf in shelves.items():
        if distilling[name].teacher in only_in_bank and not shelf.exists:
            raise BankError(
                f"teacher '{distilling[name].teacher}' has weights = \"bank\", and the bank {bank.path} has no shelf "
                f"for loss '{name}'{_nearest(shelf)}; give the teacher's weights"
            )
    return BankPlan(bank.path, images, views, _images_shown(order, views), rows, shelves)


def bank_notes(plan: BankPlan, images: int) -> Iterator[str]:
    """A note on training images that no view shows; `images` is the size of the training set."""
    if plan.images < images:
        yield (
            f"{plan.images:,} of {images:,} images are in {counted(plan.views, 'view')}; raise data.views or lower "
            "augment.repeats to train on more of them"
        )


def bank_lines(plan: BankPlan) -> list[str]:
    """The bank as lines of text."""
    shown = f"{counted(plan.views, 'view')} of this run, showing {counted(plan.images, 'image')}"
    lines = [f"{plan.path}: {size_text(plan.total_bytes)} for {shown}"]
    for name, shelf in plan.shelves.items():
        lines.append(f"{name}: {shelf.row_bytes:,} bytes a row, {_state(shelf)}")
    return lines


def _state(shelf: ShelfPlan) -> str:
    if shelf.exists:
        return "a shelf fits, if the teacher's weights are the same"
    return f"a new shelf{_nearest(shelf)}"


def _nearest(shelf: ShelfPlan) -> str:
    """The end of a sentence about a shelf that the bank lacks: in what the nearest one differs, "" without one."""
    if not shelf.differing:
        return ""
    parts = [f"{name} {theirs!r} there, {ours!r} here" for name, (theirs, ours) in shelf.differing.items()]
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return f"; the nearest one differs in {'; '.join(parts[:SHOWN])}{more}"


def _shelf(bank: Bank, plan: Plan, loss: LossPlan, rows: int, images: str) -> ShelfPlan:
    row_bytes = RowFormat.of(loss.loss.targets).bytes + CHECK_BYTES
    nearest = bank.nearest(shelf_facts(plan, loss, images=images))
    differing = {} if nearest is None else {name: pair for name, pair in nearest[1].items() if name not in UNKNOWN}
    return ShelfPlan(row_bytes, rows * row_bytes, nearest is not None and not differing, differing)


def _images_shown(order: Order, views: int) -> int:
    """How many different images the views of a run show."""
    shown = np.zeros(len(order.labelled), np.bool_)
    for view in range(views):
        shown[order.epoch(view)[..., 0].ravel()] = True
        if shown.all():
            break
    return int(shown.sum())
